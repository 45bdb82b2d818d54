// The gated delta rule over the rows of several sequences, whose state is a matrix S [K, V] per value head (GatedDeltaSpec):
//
//   S' = a S,   u = b (v - k S'),   S'' = S' + k^T u,   y = q S'' = q S' + (q k) u
//   out = norm(y) silu(z) or norm(y) sigmoid(z),   b = beta_scale sigmoid(in_b)
//   log a = -exp(A_log) softplus(in_a + dt_bias), or bound sigmoid(exp(A_log) (in_a + dt_bias))
//
// with q and k of length 1, q divided by sqrt(K), and a one number, or one for each row of S. All in fp32.
//
// One thread takes one value head of one sequence. Rows are computed in chunks, which also end where a state is stored. With D_ij
// the product of a over the rows after j up to i of the chunk (D_i: from its first row on), and S the state before it, a chunk is
// products of matrices and a triangular system:
//
//   u_i = b_i (v_i - (D_i k_i) S - sum over j < i of (k_i . D_ij k_j) u_j)
//   y_i = (D_i q_i) S + sum over j <= i of (q_i . D_ij k_j) u_j
//   S after the chunk = D_n S + sum over j of (D_nj k_j)^T u_j
//
// No D is above 1, so nothing overflows. A chunk of few rows is computed row after row: k S' and q S' in a first pass over the
// state, S'' in a second.
//
// The state is read where the last chunk left it, at first from the sequence's source, and written to the last row's target;
// without a target to memory of the thread's own, and nowhere after the last row.
#include <algorithm>
#include <vector>

#include "linear/row_input.h"
#include "recurrence/products.h"
#include "recurrence/softplus.h"
#include "runtime/parallel.h"
#include "runtime/replay.h"

namespace {

using namespace hr;

constexpr int64_t kChunk = 16;     // rows: what rows of a chunk see of each other grows with its square
constexpr int64_t kFewRows = 4;    // a shorter chunk is computed row after row
constexpr int64_t kGrain = 16384;  // elements of states; fewer are not worth a second thread
constexpr float kNormEps = 1e-6f;  // added to the squared length of a query or key

struct Delta {
  const float* qkv;
  const void *z, *b, *a;
  int64_t z_stride, b_stride, a_stride;
  const float *A_log, *dt_bias, *norm_weight;
  float eps, beta_scale, min_log_decay;  // the last one: 0 for softplus
  float* state;
  const int32_t *sources, *targets, *offsets;
  void* out;
  int64_t num_key_heads, num_value_heads, key_dim, value_dim;
  bool tiles_key_heads, has_channel_decay, has_sigmoid_gate;
};

struct Scratch {
  std::vector<float> state, y, q, k, decay, decayed_q, decayed_k, left_keys, key, total;
};

// The rows of one head in a chunk: [row][K] each, and v with a stride of its own.
struct Rows {
  const float *q, *k, *decay, *v;
  int64_t v_stride, count;
  float beta[kChunk];
};

// to = scale * x / |x|
void normalize(float scale, const float* x, int64_t size, float* to) {
  F32x16 squares = broadcast(0.0f);
  for (int64_t i = 0; i < size; i += 16) squares = fma(load<F32x16>(x + i), load<F32x16>(x + i), squares);
  const F32x16 factor = broadcast(scale / std::sqrt(sum_lanes(squares) + kNormEps));
  for (int64_t i = 0; i < size; i += 16) store(to + i, load<F32x16>(x + i) * factor);
}

struct Row {
  const float *k, *v, *decay, *decayed_q, *decayed_k;  // decayed: times a
  float beta, q_dot_k;
  int64_t key_dim, value_dim;
};

// Of kVectors times 16 columns from `first` on: y, and S'' from `from` (null: zeros) to `to` (null: nowhere); they may be one.
template <int kVectors>
HR_INLINE void step_columns(const Row& row, int64_t first, const float* from, float* to, float* y) {
  F32x16 k_s[kVectors], q_s[kVectors];
#pragma GCC unroll 8
  for (int n = 0; n < kVectors; ++n) k_s[n] = q_s[n] = broadcast(0.0f);
  for (int64_t i = 0; from && i < row.key_dim; ++i) {
    const F32x16 k = broadcast(row.decayed_k[i]), q = broadcast(row.decayed_q[i]);
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) {
      const F32x16 s = load<F32x16>(from + i * row.value_dim + first + 16 * n);
      k_s[n] = fma(k, s, k_s[n]);
      q_s[n] = fma(q, s, q_s[n]);
    }
  }
  const F32x16 beta = broadcast(row.beta), q_dot_k = broadcast(row.q_dot_k);
  F32x16 u[kVectors];
#pragma GCC unroll 8
  for (int n = 0; n < kVectors; ++n) {
    u[n] = beta * (load<F32x16>(row.v + first + 16 * n) - k_s[n]);
    store(y + first + 16 * n, fma(q_dot_k, u[n], q_s[n]));
  }
  for (int64_t i = 0; to && i < row.key_dim; ++i) {
    const F32x16 k = broadcast(row.k[i]), decay = broadcast(row.decay[i]);
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) {
      const int64_t at = i * row.value_dim + first + 16 * n;
      store(to + at, from ? fma(k, u[n], decay * load<F32x16>(from + at)) : k * u[n]);
    }
  }
}

void step(const Rows& rows, int64_t i, int64_t K, int64_t V, const float* from, float* to, float* y, Scratch& scratch) {
  const float *q = rows.q + i * K, *k = rows.k + i * K, *decay = rows.decay + i * K;
  multiply(decay, q, K, scratch.decayed_q.data());
  multiply(decay, k, K, scratch.decayed_k.data());
  const Row row{k, rows.v + i * rows.v_stride, decay, scratch.decayed_q.data(), scratch.decayed_k.data(), rows.beta[i], dot(q, k, K), K, V};
  int64_t first = 0;
  for (; first + 64 <= V; first += 64) step_columns<4>(row, first, from, to, y);
  for (; first < V; first += 16) step_columns<1>(row, first, from, to, y);
}

// What a chunk's rows see of each other: k_i . D_ij k_j below the diagonal, q_i . D_ij k_j on it, too.
struct Seen {
  float by_key[kChunk][kChunk], by_query[kChunk][kChunk];
};

// Also D_n k_j of all rows, transposed: left_keys [K][kChunk].
void compare_rows(const Rows& rows, int64_t K, float* key, float* left_keys, Seen& seen) {
  for (int64_t j = 0; j < rows.count; ++j) {
    std::copy_n(rows.k + j * K, K, key);
    seen.by_query[j][j] = dot(rows.q + j * K, key, K);
    for (int64_t i = j + 1; i < rows.count; ++i) {
      multiply(rows.decay + i * K, key, K, key);
      seen.by_key[i][j] = dot(rows.k + i * K, key, K);
      seen.by_query[i][j] = dot(rows.q + i * K, key, K);
    }
    for (int64_t n = 0; n < K; ++n) left_keys[n * kChunk + j] = key[n];
  }
}

// y [row][V], and the state after the chunk from `from` (null: zeros) to `to` (null: nowhere); they may be one.
void run_chunk(const Rows& rows, int64_t K, int64_t V, const float* from, float* to, float* y, Scratch& scratch) {
  Seen seen;
  float *left_keys = scratch.left_keys.data(), *total = scratch.total.data();
  compare_rows(rows, K, scratch.key.data(), left_keys, seen);
  std::fill_n(total, K, 1.0f);
  for (int64_t i = 0; i < rows.count; ++i) {
    multiply(rows.decay + i * K, total, K, total);
    multiply(rows.q + i * K, total, K, scratch.decayed_q.data() + i * K);
    multiply(rows.k + i * K, total, K, scratch.decayed_k.data() + i * K);
  }
  for (int64_t first = 0; first < V; first += 16) {
    F32x16 u[kChunk], read[kChunk];
    read_rows(scratch.decayed_k.data(), rows.count, K, from ? from + first : nullptr, V, u);
    for (int64_t i = 0; i < rows.count; ++i) {
      F32x16 value = load<F32x16>(rows.v + i * rows.v_stride + first) - u[i];
      for (int64_t j = 0; j < i; ++j) value = fma(broadcast(-seen.by_key[i][j]), u[j], value);
      u[i] = broadcast(rows.beta[i]) * value;
    }
    read_rows(scratch.decayed_q.data(), rows.count, K, from ? from + first : nullptr, V, read);
    for (int64_t i = 0; i < rows.count; ++i) {
      for (int64_t j = 0; j <= i; ++j) read[i] = fma(broadcast(seen.by_query[i][j]), u[j], read[i]);
      store(y + i * V + first, read[i]);
    }
    for (int64_t n = 0; to && n < K; n += 8) {
      F32x16 s[8][1];
#pragma GCC unroll 8
      for (int r = 0; r < 8; ++r)
        s[r][0] = from ? broadcast(total[n + r]) * load<F32x16>(from + (n + r) * V + first) : broadcast(0.0f);
      add_products<8>(left_keys + n * kChunk, kChunk, reinterpret_cast<const float*>(u), 16, rows.count, s);
#pragma GCC unroll 8
      for (int r = 0; r < 8; ++r) store(to + (n + r) * V + first, s[r][0]);
    }
  }
}

// a, of in_a + dt_bias
HR_INLINE F32x16 decay_of(const F32x16& shifted, float rate, float min_log_decay) {
  const F32x16 log_decay = min_log_decay == 0 ? broadcast(-rate) * softplus(shifted)
                                              : broadcast(min_log_decay) * sigmoid(broadcast(rate) * shifted);
  return nan_of(shifted, exp2(log_decay * broadcast(1.44269504f)));
}

template <class Element>
void decays_of_head(const Delta& delta, const Element* a, int64_t head, float rate, float* decay) {
  const int64_t K = delta.key_dim;
  if (delta.has_channel_decay) {
    for (int64_t i = 0; i < K; i += 16) {
      const F32x16 shifted = load_lanes(a + head * K + i) + load<F32x16>(delta.dt_bias + head * K + i);
      store(decay + i, decay_of(shifted, rate, delta.min_log_decay));
    }
    return;
  }
  const F32x16 same = decay_of(broadcast(to_float(a[head]) + delta.dt_bias[head]), rate, delta.min_log_decay);
  for (int64_t i = 0; i < K; i += 16) store(decay + i, same);
}

// The norm and gate after the rule, of y [V], which is overwritten.
template <class Element>
void finish_row(const Delta& delta, int64_t t, int64_t head, float* y) {
  const int64_t V = delta.value_dim;
  normalize_row(InputSpec{InputKind::kRmsNorm, delta.norm_weight, nullptr, delta.eps}, y, V, y);
  const Element* z = static_cast<const Element*>(delta.z) + t * delta.z_stride + head * V;
  Element* out = static_cast<Element*>(delta.out) + (t * delta.num_value_heads + head) * V;
  for (int64_t v = 0; v < V; v += 16) {
    const F32x16 gate = load_lanes(z + v);
    store_lanes(out + v, load<F32x16>(y + v) * (delta.has_sigmoid_gate ? sigmoid(gate) : silu(gate)));
  }
}

template <class Element>
void run_head(const Delta& delta, int64_t sequence, int64_t head) {
  const WithoutSubnormals without_subnormals;
  Scratch& scratch = thread_scratch<Scratch>();
  const int64_t K = delta.key_dim, V = delta.value_dim;
  const auto reserve = [](std::vector<float>& buffer, size_t size) { buffer.resize(std::max(buffer.size(), size)); };
  reserve(scratch.state, K * V);
  reserve(scratch.y, kChunk * V);
  for (auto* buffer : {&scratch.q, &scratch.k, &scratch.decay, &scratch.decayed_q, &scratch.decayed_k, &scratch.left_keys})
    reserve(*buffer, kChunk * K);
  reserve(scratch.key, K);
  reserve(scratch.total, K);
  const auto place = [&](int32_t block) { return delta.state + (block * delta.num_value_heads + head) * K * V; };
  const int64_t shared_by = delta.num_value_heads / delta.num_key_heads;
  const int64_t key_head = delta.tiles_key_heads ? head % delta.num_key_heads : head / shared_by;
  const int64_t start_of_k = delta.num_key_heads * K, start_of_v = 2 * start_of_k, qkv_size = start_of_v + delta.num_value_heads * V;
  const float rate = std::exp(delta.A_log[head]);
  float* y = scratch.y.data();

  const float* from = delta.sources[sequence] < 0 ? nullptr : place(delta.sources[sequence]);
  const int64_t end = delta.offsets[sequence + 1];
  for (int64_t start = delta.offsets[sequence]; start < end;) {
    Rows rows{scratch.q.data(), scratch.k.data(), scratch.decay.data(), delta.qkv + start * qkv_size + start_of_v + head * V, qkv_size, 0, {}};
    int32_t target = -1;
    while (rows.count < kChunk && start + rows.count < end && target < 0) {
      const int64_t t = start + rows.count, i = rows.count++;
      const float* qkv = delta.qkv + t * qkv_size;
      normalize(1 / std::sqrt(static_cast<float>(K)), qkv + key_head * K, K, scratch.q.data() + i * K);
      normalize(1, qkv + start_of_k + key_head * K, K, scratch.k.data() + i * K);
      decays_of_head(delta, static_cast<const Element*>(delta.a) + t * delta.a_stride, head, rate, scratch.decay.data() + i * K);
      rows.beta[i] = delta.beta_scale / (1 + std::exp(-to_float(static_cast<const Element*>(delta.b)[t * delta.b_stride + head])));
      target = delta.targets[t];
    }
    float* to = target >= 0 ? place(target) : start + rows.count < end ? scratch.state.data() : nullptr;
    if (rows.count >= kFewRows) {
      run_chunk(rows, K, V, from, to, y, scratch);
    } else {
      for (int64_t i = 0; i < rows.count; ++i) {
        float* next = i + 1 < rows.count ? scratch.state.data() : to;
        step(rows, i, K, V, from, next, y + i * V, scratch);
        from = next;
      }
    }
    for (int64_t i = 0; i < rows.count; ++i) finish_row<Element>(delta, start + i, head, y + i * V);
    from = to;
    start += rows.count;
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

// qkv [T, 2 key heads * K + value heads * V] fp32: queries, keys, values. z [T, value heads * V], b [T, value heads] and a [T, value
// heads, or value heads * K with has_channel_decay], in bf16 or fp32, each with its stride between rows. A_log [value heads], dt_bias
// (as many as a) and norm_weight [V] in fp32. min_log_decay: the bound of log a, 0 for softplus. state [blocks, value heads, K, V]
// fp32; sources, targets and offsets as in hr_causal_conv. out [T, value heads * V] in z's type. K and V: multiples of 16.
// tiles_key_heads: value head h takes key head h modulo their number, else h divided by it.
HR_API void hr_gated_delta(const float* qkv, int is_bf16, const void* z, int64_t z_stride, const void* b, int64_t b_stride, const void* a,
                           int64_t a_stride, const float* A_log, const float* dt_bias, const float* norm_weight, float eps,
                           float beta_scale, float min_log_decay, float* state, const int32_t* sources, const int32_t* targets,
                           const int32_t* offsets, int num_sequences, void* out, int num_key_heads, int num_value_heads, int key_dim,
                           int value_dim, int tiles_key_heads, int has_channel_decay, int has_sigmoid_gate) {
  const Delta delta{qkv, z, b, a, z_stride, b_stride, a_stride, A_log, dt_bias, norm_weight, eps, beta_scale, min_log_decay,
                    state, sources, targets, offsets, out, num_key_heads, num_value_heads, key_dim, value_dim,
                    tiles_key_heads != 0, has_channel_decay != 0, has_sigmoid_gate != 0};
  if (is_bf16)
    run<Bf16>(delta, num_sequences);
  else
    run<float>(delta, num_sequences);
}

HR_REPLAYABLE(hr_gated_delta)
