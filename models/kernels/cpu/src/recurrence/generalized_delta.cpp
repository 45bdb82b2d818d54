// The generalized delta rule over the rows of several sequences, whose state is a matrix S [K, K] per head (GeneralizedDeltaSpec):
//
//   p = c S,   S' = w S - b^T p + k^T v,   y = q S' = (w q) S - (q b) p + (q k) v,   b = a c
//   out = (norm(y) + (q . r_k k) v) gate
//
//   log w = -e^-0.5 sigmoid(in_w),   a = sigmoid(in_a),   c = k_k in_k / |k_k in_k|,   k = in_k (1 + k_a (a - 1))
//   v = in_v + sigmoid(in_f) (first - in_v), or in_v
//
// All in fp32. One thread takes one head of one sequence. Rows are computed in chunks, which also end where a state is stored. With
// D_i the product of w over the chunk's rows up to i, and S the state before it, a chunk is products of matrices and a triangular
// system:
//
//   p_i = (D_(i-1) c_i) S + sum over j < i of (D_(i-1) c_i . k_j / D_j) v_j - (D_(i-1) c_i . b_j / D_j) p_j
//   y_i = (D_i q_i) S + sum over j <= i of (D_i q_i . k_j / D_j) v_j - (D_i q_i . b_j / D_j) p_j
//   S after the chunk = D_n (S + sum over j of (k_j / D_j)^T v_j - (b_j / D_j)^T p_j)
//
// No w is below e^-0.61, so that no D of a chunk is below 6e-5, and dividing by it loses nothing. A chunk of few rows is computed row
// after row: c S and (w q) S in a first pass over the state, S' in a second.
//
// The state is read where the last chunk left it, at first from the sequence's source, and written to the last row's target;
// without a target to memory of the thread's own, and nowhere after the last row.
#include <algorithm>
#include <cmath>
#include <vector>

#include "linear/row_input.h"
#include "recurrence/products.h"
#include "runtime/parallel.h"
#include "runtime/replay.h"

namespace {

using namespace hr;

constexpr int64_t kChunk = 16;     // rows: as many as a vector has lanes
constexpr int64_t kFewRows = 4;    // a shorter chunk is computed row after row
constexpr int64_t kGrain = 16384;  // elements of states; fewer are not worth a second thread
constexpr float kMinLength = 1e-12f;
constexpr float kMinLog2Decay = -0.60653066f * 1.44269504f;

struct Rule {
  const void *q, *decay, *k, *v, *rate, *gate, *first_rate, *first_values;
  const float *k_k, *k_a, *r_k, *norm_weight, *norm_bias;
  float eps;
  float* state;
  const int32_t *sources, *targets, *offsets;
  void* out;
  int64_t num_heads, head_dim;
};

struct Scratch {
  std::vector<float> state, rows, turned;
};

// The rows of one head in a chunk, [row][K] each. left_q, left_c: D_i q_i and D_(i-1) c_i, or of a single row w q.
struct Rows {
  float *q, *k, *v, *c, *b, *w, *y, *left_q, *left_c;
  int64_t count;
};

constexpr int64_t kRowBuffers = 9;

HR_INLINE F32x16 kept_sigmoid(const F32x16& x) { return nan_of(x, sigmoid(x)); }

template <class Element>
void prepare(const Rule& rule, int64_t t, int64_t head, const Rows& rows, int64_t i) {
  const int64_t K = rule.head_dim, at = (t * rule.num_heads + head) * K;
  const auto input = [&](const void* of, int64_t n) { return load_lanes(static_cast<const Element*>(of) + at + n); };
  F32x16 squares = broadcast(0.0f);
  for (int64_t n = 0; n < K; n += 16) {
    const F32x16 one = broadcast(1.0f), in_k = input(rule.k, n), rate = kept_sigmoid(input(rule.rate, n));
    const F32x16 direction = in_k * load<F32x16>(rule.k_k + head * K + n);
    squares = fma(direction, direction, squares);
    F32x16 v = input(rule.v, n);
    if (rule.first_rate) v = fma(kept_sigmoid(input(rule.first_rate, n)), input(rule.first_values, n) - v, v);
    const int64_t to = i * K + n;
    store(rows.q + to, input(rule.q, n));
    store(rows.k + to, in_k * fma(load<F32x16>(rule.k_a + head * K + n), rate - one, one));
    store(rows.v + to, v);
    store(rows.c + to, direction);
    store(rows.b + to, rate);
    const F32x16 decay = input(rule.decay, n);
    store(rows.w + to, nan_of(decay, exp2(broadcast(kMinLog2Decay) * sigmoid(decay))));
  }
  const F32x16 factor = broadcast(1 / std::max(std::sqrt(sum_lanes(squares)), kMinLength));
  for (int64_t n = i * K; n < (i + 1) * K; n += 16) {
    const F32x16 c = load<F32x16>(rows.c + n) * factor;
    store(rows.c + n, c);
    store(rows.b + n, load<F32x16>(rows.b + n) * c);
  }
}

struct Row {
  const float *k, *v, *c, *b, *w, *left_q;
  float q_dot_k, q_dot_b;
  int64_t head_dim;
};

// Of kVectors times 16 columns from `first` on: y, and S' from `from` (null: zeros) to `to` (null: nowhere); they may be one.
template <int kVectors>
HR_INLINE void step_columns(const Row& row, int64_t first, const float* from, float* to, float* y) {
  const int64_t K = row.head_dim;
  F32x16 p[kVectors], read[kVectors], v[kVectors];
#pragma GCC unroll 8
  for (int n = 0; n < kVectors; ++n) p[n] = read[n] = broadcast(0.0f);
  for (int64_t i = 0; from && i < K; ++i) {
    const F32x16 c = broadcast(row.c[i]), q = broadcast(row.left_q[i]);
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) {
      const F32x16 s = load<F32x16>(from + i * K + first + 16 * n);
      p[n] = fma(c, s, p[n]);
      read[n] = fma(q, s, read[n]);
    }
  }
#pragma GCC unroll 8
  for (int n = 0; n < kVectors; ++n) {
    v[n] = load<F32x16>(row.v + first + 16 * n);
    store(y + first + 16 * n, fma(broadcast(row.q_dot_k), v[n], fma(broadcast(-row.q_dot_b), p[n], read[n])));
  }
  for (int64_t i = 0; to && i < K; ++i) {
    const F32x16 k = broadcast(row.k[i]), b = broadcast(-row.b[i]), w = broadcast(row.w[i]);
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) {
      const int64_t at = i * K + first + 16 * n;
      const F32x16 added = fma(b, p[n], k * v[n]);
      store(to + at, from ? fma(w, load<F32x16>(from + at), added) : added);
    }
  }
}

void step(const Rows& rows, int64_t i, int64_t K, const float* from, float* to) {
  const int64_t at = i * K;
  multiply(rows.w + at, rows.q + at, K, rows.left_q);
  const Row row{rows.k + at, rows.v + at, rows.c + at, rows.b + at, rows.w + at, rows.left_q,
                dot(rows.q + at, rows.k + at, K), dot(rows.q + at, rows.b + at, K), K};
  int64_t first = 0;
  for (; first + 64 <= K; first += 64) step_columns<4>(row, first, from, to, rows.y + at);
  for (; first < K; first += 16) step_columns<1>(row, first, from, to, rows.y + at);
}

// The state after the chunk from `from` (null: zeros) to `to` (null: nowhere); they may be one. turned [3][K][kChunk]: room for the
// transposed k_j / D_j and -b_j / D_j, and for two vectors [K].
void run_chunk(const Rows& rows, int64_t K, const float* from, float* to, float* turned) {
  float *right_k = turned, *right_b = turned + K * kChunk, *total = right_b + K * kChunk, *inverse = total + K;
  std::fill_n(right_k, 2 * K * kChunk, 0.0f);
  std::fill_n(total, K, 1.0f);
  for (int64_t i = 0; i < rows.count; ++i) {
    const int64_t at = i * K;
    multiply(rows.c + at, total, K, rows.left_c + at);
    multiply(rows.w + at, total, K, total);
    multiply(rows.q + at, total, K, rows.left_q + at);
    for (int64_t n = 0; n < K; n += 16) store(inverse + n, broadcast(1.0f) / load<F32x16>(total + n));
    for (int64_t n = 0; n < K; ++n) {
      right_k[n * kChunk + i] = rows.k[at + n] * inverse[n];
      right_b[n * kChunk + i] = -rows.b[at + n] * inverse[n];
    }
  }
  // What rows see of each other, a lane for each earlier row.
  float c_k[kChunk][kChunk], c_b[kChunk][kChunk], q_k[kChunk][kChunk], q_b[kChunk][kChunk];
  const auto compare = [&](const float* left, const float* right, float* seen) {
    F32x16 products[kChunk];
    read_rows(left, rows.count, K, right, kChunk, products);
    for (int64_t i = 0; i < rows.count; ++i) store(seen + i * kChunk, products[i]);
  };
  compare(rows.left_c, right_k, &c_k[0][0]);
  compare(rows.left_c, right_b, &c_b[0][0]);
  compare(rows.left_q, right_k, &q_k[0][0]);
  compare(rows.left_q, right_b, &q_b[0][0]);
  for (int64_t first = 0; first < K; first += 16) {
    const float* state = from ? from + first : nullptr;
    F32x16 p[kChunk], y[kChunk], v[kChunk];
    for (int64_t i = 0; i < rows.count; ++i) v[i] = load<F32x16>(rows.v + i * K + first);
    read_rows(rows.left_c, rows.count, K, state, K, p);
    read_rows(rows.left_q, rows.count, K, state, K, y);
    for (int64_t i = 0; i < rows.count; ++i) {
      for (int64_t j = 0; j < i; ++j) p[i] = fma(broadcast(c_b[i][j]), p[j], fma(broadcast(c_k[i][j]), v[j], p[i]));
      for (int64_t j = 0; j <= i; ++j) y[i] = fma(broadcast(q_b[i][j]), p[j], fma(broadcast(q_k[i][j]), v[j], y[i]));
      store(rows.y + i * K + first, y[i]);
    }
    for (int64_t n = 0; to && n < K; n += 8) {
      F32x16 s[8][1];
#pragma GCC unroll 8
      for (int r = 0; r < 8; ++r) s[r][0] = from ? load<F32x16>(from + (n + r) * K + first) : broadcast(0.0f);
      add_products<8>(right_k + n * kChunk, kChunk, reinterpret_cast<const float*>(v), 16, rows.count, s);
      add_products<8>(right_b + n * kChunk, kChunk, reinterpret_cast<const float*>(p), 16, rows.count, s);
#pragma GCC unroll 8
      for (int r = 0; r < 8; ++r) store(to + (n + r) * K + first, broadcast(total[n + r]) * s[r][0]);
    }
  }
}

// The norm, the row's own value and the gate after the rule.
template <class Element>
void finish(const Rule& rule, int64_t t, int64_t head, const Rows& rows, int64_t i) {
  const int64_t K = rule.head_dim, at = i * K, to = (t * rule.num_heads + head) * K;
  F32x16 sum = broadcast(0.0f);
  for (int64_t n = 0; n < K; n += 16)
    sum = fma(load<F32x16>(rows.q + at + n) * load<F32x16>(rows.k + at + n), load<F32x16>(rule.r_k + head * K + n), sum);
  const F32x16 own = broadcast(sum_lanes(sum));
  float* y = rows.y + at;
  normalize_row(InputSpec{InputKind::kLayerNorm, rule.norm_weight + head * K, rule.norm_bias + head * K, rule.eps}, y, K, y);
  for (int64_t n = 0; n < K; n += 16) {
    const F32x16 gate = load_lanes(static_cast<const Element*>(rule.gate) + to + n);
    store_lanes(static_cast<Element*>(rule.out) + to + n, fma(own, load<F32x16>(rows.v + at + n), load<F32x16>(y + n)) * gate);
  }
}

template <class Element>
void run_head(const Rule& rule, int64_t sequence, int64_t head) {
  const WithoutSubnormals without_subnormals;
  Scratch& scratch = thread_scratch<Scratch>();
  const int64_t K = rule.head_dim, size = kChunk * K;
  const auto reserve = [](std::vector<float>& buffer, size_t count) { buffer.resize(std::max(buffer.size(), count)); };
  reserve(scratch.state, K * K);
  reserve(scratch.rows, kRowBuffers * size);
  reserve(scratch.turned, 2 * size + 2 * K);
  const auto buffer = [&](int64_t n) { return scratch.rows.data() + n * size; };
  Rows rows{buffer(0), buffer(1), buffer(2), buffer(3), buffer(4), buffer(5), buffer(6), buffer(7), buffer(8), 0};
  const auto place = [&](int64_t block) { return rule.state + (block * rule.num_heads + head) * K * K; };

  const float* from = rule.sources[sequence] < 0 ? nullptr : place(rule.sources[sequence]);
  const int64_t end = rule.offsets[sequence + 1];
  for (int64_t start = rule.offsets[sequence]; start < end; start += rows.count) {
    int32_t target = -1;
    for (rows.count = 0; rows.count < kChunk && start + rows.count < end && target < 0; ++rows.count) {
      prepare<Element>(rule, start + rows.count, head, rows, rows.count);
      target = rule.targets[start + rows.count];
    }
    float* to = target >= 0 ? place(target) : start + rows.count < end ? scratch.state.data() : nullptr;
    if (rows.count >= kFewRows) {
      run_chunk(rows, K, from, to, scratch.turned.data());
    } else {
      for (int64_t i = 0; i < rows.count; ++i) {
        float* next = i + 1 < rows.count ? scratch.state.data() : to;
        step(rows, i, K, from, next);
        from = next;
      }
    }
    for (int64_t i = 0; i < rows.count; ++i) finish<Element>(rule, start + i, head, rows, i);
    from = to;
  }
}

template <class Element>
void run(const Rule& rule, int64_t num_sequences) {
  const int64_t rows_each = std::max<int64_t>(1, rule.offsets[num_sequences] / std::max<int64_t>(1, num_sequences));
  const int64_t cost = rule.head_dim * rule.head_dim * rows_each;
  parallel_for(num_sequences * rule.num_heads, std::max<int64_t>(1, kGrain / cost),
               [&](int64_t i) { run_head<Element>(rule, i / rule.num_heads, i % rule.num_heads); });
}

}  // namespace

// q, decay (in_w), k (in_k), v (in_v), rate (in_a), gate, first_rate (in_f) and first_values [T, heads * K], contiguous, all in bf16 or
// all in fp32; the last two may be null. k_k, k_a, r_k, norm_weight and norm_bias [heads * K] in fp32. state [blocks, heads, K, K] fp32;
// sources, targets and offsets as in hr_causal_conv. out [T, heads * K] in the inputs' type. K: a multiple of 16.
HR_API void hr_generalized_delta(int is_bf16, const void* q, const void* decay, const void* k, const void* v, const void* rate,
                                 const void* gate, const void* first_rate, const void* first_values, const float* k_k,
                                 const float* k_a, const float* r_k, const float* norm_weight, const float* norm_bias, float eps,
                                 float* state, const int32_t* sources, const int32_t* targets, const int32_t* offsets,
                                 int num_sequences, void* out, int num_heads, int head_dim) {
  const Rule rule{q, decay, k, v, rate, gate, first_rate, first_values, k_k, k_a, r_k, norm_weight, norm_bias, eps, state, sources,
                  targets, offsets, out, num_heads, head_dim};
  if (is_bf16)
    run<Bf16>(rule, num_sequences);
  else
    run<float>(rule, num_sequences);
}

HR_REPLAYABLE(hr_generalized_delta)
