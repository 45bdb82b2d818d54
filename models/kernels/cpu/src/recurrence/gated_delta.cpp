// The gated delta rule over the rows of several sequences, whose state is a matrix S [K, V] per value head (GatedDeltaSpec):
//
//   S' = a S,   u = b (v - k S'),   S'' = S' + k^T u,   y = q S'' = a (q S) + (q k) u
//   out = norm(y) silu(z),   a = exp(-exp(A_log) softplus(in_a + dt_bias)),   b = beta_scale sigmoid(in_b)
//
// with q and k of length 1, q divided by sqrt(K). All in fp32.
//
// One thread takes one value head of one sequence, row after row: k S and q S in a first pass over the state, S'' in a second.
// The state is read where the last row left it, at first from the sequence's source, and written to the row's target; without a
// target to memory of the thread's own, and nowhere after the last row.
#include <algorithm>
#include <vector>

#include "linear/row_input.h"
#include "runtime/parallel.h"
#include "runtime/replay.h"

namespace {

using namespace hr;

constexpr int64_t kGrain = 16384;  // elements of states; fewer are not worth a second thread
constexpr float kNormEps = 1e-6f;  // added to the squared length of a query or key

struct Delta {
  const float* qkv;
  const void *z, *b, *a;
  int64_t row_stride;
  const float *A_log, *dt_bias, *norm_weight;
  float eps, beta_scale;
  float* state;
  const int32_t *sources, *targets, *offsets;
  void* out;
  int64_t num_key_heads, num_value_heads, key_dim, value_dim;
  bool tiles_key_heads;
};

struct Scratch {
  std::vector<float> state, q, k, y;
};

// to = scale * x / |x|
void normalize(float scale, const float* x, int64_t size, float* to) {
  F32x16 squares = broadcast(0.0f);
  for (int64_t i = 0; i < size; i += 16) squares = fma(load<F32x16>(x + i), load<F32x16>(x + i), squares);
  const F32x16 factor = broadcast(scale / std::sqrt(sum_lanes(squares) + kNormEps));
  for (int64_t i = 0; i < size; i += 16) store(to + i, load<F32x16>(x + i) * factor);
}

struct Row {
  const float *q, *k, *v;
  float decay, beta, q_dot_k;
  int64_t key_dim, value_dim;
};

// Of kVectors times 16 columns from `first` on: y, and S'' from `from` (null: zeros) to `to` (null: nowhere); they may be one.
template <int kVectors>
HR_INLINE void step_columns(const Row& row, int64_t first, const float* from, float* to, float* y) {
  F32x16 k_s[kVectors], q_s[kVectors];
  for (int n = 0; n < kVectors; ++n) k_s[n] = q_s[n] = broadcast(0.0f);
  for (int64_t i = 0; from && i < row.key_dim; ++i) {
    const F32x16 k = broadcast(row.k[i]), q = broadcast(row.q[i]);
    for (int n = 0; n < kVectors; ++n) {
      const F32x16 s = load<F32x16>(from + i * row.value_dim + first + 16 * n);
      k_s[n] = fma(k, s, k_s[n]);
      q_s[n] = fma(q, s, q_s[n]);
    }
  }
  const F32x16 decay = broadcast(row.decay), beta = broadcast(row.beta), q_dot_k = broadcast(row.q_dot_k);
  F32x16 u[kVectors];
  for (int n = 0; n < kVectors; ++n) {
    u[n] = beta * (load<F32x16>(row.v + first + 16 * n) - decay * k_s[n]);
    store(y + first + 16 * n, fma(q_dot_k, u[n], decay * q_s[n]));
  }
  for (int64_t i = 0; to && i < row.key_dim; ++i) {
    const F32x16 k = broadcast(row.k[i]);
    for (int n = 0; n < kVectors; ++n) {
      const int64_t at = i * row.value_dim + first + 16 * n;
      store(to + at, from ? fma(k, u[n], decay * load<F32x16>(from + at)) : k * u[n]);
    }
  }
}

void step(const Row& row, const float* from, float* to, float* y) {
  int64_t first = 0;
  for (; first + 64 <= row.value_dim; first += 64) step_columns<4>(row, first, from, to, y);
  for (; first < row.value_dim; first += 16) step_columns<1>(row, first, from, to, y);
}

template <class Element>
void run_head(const Delta& delta, int64_t sequence, int64_t head) {
  Scratch& scratch = thread_scratch<Scratch>();
  const int64_t K = delta.key_dim, V = delta.value_dim;
  scratch.state.resize(std::max<size_t>(scratch.state.size(), K * V));
  scratch.q.resize(std::max<size_t>(scratch.q.size(), K));
  scratch.k.resize(std::max<size_t>(scratch.k.size(), K));
  scratch.y.resize(std::max<size_t>(scratch.y.size(), V));
  const auto place = [&](int32_t block) { return delta.state + (block * delta.num_value_heads + head) * K * V; };
  const int64_t shared_by = delta.num_value_heads / delta.num_key_heads;
  const int64_t key_head = delta.tiles_key_heads ? head % delta.num_key_heads : head / shared_by;
  const int64_t start_of_k = delta.num_key_heads * K, start_of_v = 2 * start_of_k, qkv_size = start_of_v + delta.num_value_heads * V;
  const float rate = std::exp(delta.A_log[head]);
  const InputSpec norm{InputKind::kRmsNorm, delta.norm_weight, nullptr, delta.eps};

  const float* from = delta.sources[sequence] < 0 ? nullptr : place(delta.sources[sequence]);
  const int64_t end = delta.offsets[sequence + 1];
  for (int64_t t = delta.offsets[sequence]; t < end; ++t) {
    const float* qkv = delta.qkv + t * qkv_size;
    normalize(1 / std::sqrt(static_cast<float>(K)), qkv + key_head * K, K, scratch.q.data());
    normalize(1, qkv + start_of_k + key_head * K, K, scratch.k.data());
    F32x16 product = broadcast(0.0f);
    for (int64_t i = 0; i < K; i += 16) product = fma(load<F32x16>(scratch.q.data() + i), load<F32x16>(scratch.k.data() + i), product);
    const int64_t at = t * delta.row_stride;
    const float a = to_float(static_cast<const Element*>(delta.a)[at + head]) + delta.dt_bias[head];
    const float b = to_float(static_cast<const Element*>(delta.b)[at + head]);
    const float softplus = a > 20 ? a : std::log1p(std::exp(a));
    const Row row{scratch.q.data(), scratch.k.data(), qkv + start_of_v + head * V, std::exp(-rate * softplus), delta.beta_scale / (1 + std::exp(-b)),
                  sum_lanes(product), K, V};
    float* to = delta.targets[t] >= 0 ? place(delta.targets[t]) : t + 1 < end ? scratch.state.data() : nullptr;
    step(row, from, to, scratch.y.data());
    from = to;
    normalize_row(norm, scratch.y.data(), V, scratch.y.data());
    const Element* z = static_cast<const Element*>(delta.z) + at + head * V;
    Element* out = static_cast<Element*>(delta.out) + (t * delta.num_value_heads + head) * V;
    for (int64_t v = 0; v < V; v += 16) store_lanes(out + v, load<F32x16>(scratch.y.data() + v) * silu(load_lanes(z + v)));
  }
}

template <class Element>
void run(const Delta& delta, int64_t num_sequences) {
  const int64_t rows_each = std::max<int64_t>(1, delta.offsets[num_sequences] / std::max<int64_t>(1, num_sequences));
  const int64_t cost = delta.key_dim * delta.value_dim * rows_each;
  parallel_for(num_sequences * delta.num_value_heads, std::max<int64_t>(1, kGrain / cost),
               [&](int64_t i) { run_head<Element>(delta, i / delta.num_value_heads, i % delta.num_value_heads); });
}

}  // namespace

// qkv [T, 2 key heads * K + value heads * V] fp32: queries, keys, values. z [T, value heads * V], b and a [T, value heads], in
// bf16 or fp32, with row_stride elements between rows of each. A_log, dt_bias [value heads] and norm_weight [V] in fp32.
// state [blocks, value heads, K, V] fp32; sources, targets and offsets as in hr_causal_conv. out [T, value heads * V] in z's
// type. K and V: multiples of 16. tiles_key_heads: value head h takes key head h modulo their number, else h divided by it.
HR_API void hr_gated_delta(const float* qkv, int is_bf16, const void* z, const void* b, const void* a, int64_t row_stride,
                           const float* A_log, const float* dt_bias, const float* norm_weight, float eps, float beta_scale, float* state,
                           const int32_t* sources, const int32_t* targets, const int32_t* offsets, int num_sequences, void* out,
                           int num_key_heads, int num_value_heads, int key_dim, int value_dim, int tiles_key_heads) {
  const Delta delta{qkv,   z,       b,       a,       row_stride, A_log,      dt_bias,         norm_weight, eps, beta_scale,
                    state, sources, targets, offsets, out,        num_key_heads, num_value_heads, key_dim,     value_dim,
                    tiles_key_heads != 0};
  if (is_bf16)
    run<Bf16>(delta, num_sequences);
  else
    run<float>(delta, num_sequences);
}

HR_REPLAYABLE(hr_gated_delta)
