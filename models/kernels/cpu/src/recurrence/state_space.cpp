// State-space duality over the rows of several sequences, whose state is a matrix S [N, P] per head (StateSpaceSpec):
//
//   S' = a S + B^T (d x),   y = C S' + D x,   d = clamp(softplus(scale in_d + dt_bias)),   a = exp(-exp(A_log) d)
//
// x [P] is the head's; B and C [N] are shared by the heads of a group. All in fp32. Without in_d, decays are fixed: d = 1, D = 0.
//
// One thread takes some heads of one sequence, all of one group: they share the products C_i . B_j. Rows are computed in chunks, which
// also end where a state is stored. With G_i the sum of log a up to row i of the chunk, and S the state before it, a chunk is products
// of matrices:
//
//   y_i = exp(G_i) C_i S + sum over j <= i of exp(G_i - G_j) (C_i . B_j) d_j x_j + D x_i
//   S after the chunk = exp(G_n) S + sum over j of B_j^T (exp(G_n - G_j) d_j x_j)
//
// A chunk of few rows is computed row after row: one pass over the state for each.
#include <algorithm>
#include <vector>

#include "linear/row_input.h"
#include "recurrence/products.h"
#include "recurrence/softplus.h"
#include "runtime/parallel.h"
#include "runtime/replay.h"
#include "simd/register_tile.h"

namespace {

using namespace hr;

constexpr int64_t kChunk = 32;     // rows: what rows of a chunk see of each other grows with its square
constexpr int64_t kFewRows = 4;    // a shorter chunk is computed row after row
constexpr int64_t kHeads = 8;      // that share products in a thread
constexpr int64_t kGrain = 16384;  // elements of states; fewer are not worth a second thread

struct StateSpace {
  const float* xbc;
  const void* steps;
  int64_t row_stride;
  const float *A_log, *dt_bias, *D;
  float step_scale, min_step, max_step;
  float* state;
  const int32_t *sources, *targets, *offsets;
  float* y;
  int64_t num_heads, num_groups, state_size, head_dim;
};

// What heads of a group share of a chunk: C_i . B_j [kChunk][kChunk], zeros above the diagonal, and B transposed [N][kChunk].
struct Shared {
  float *products, *keys;
};

struct Scratch {
  std::vector<float> state, shared, scores, values, left_values;
};

// The rows of one head in a chunk.
struct Rows {
  const float *x, *b, *c;  // of the first row
  float* y;
  int64_t stride, y_stride, count;
  float step[kChunk], total[kChunk];  // d, and G
  float skip;                         // D
};

// Of one row and kVectors times 16 columns from `first` on: y, and S' from `from` (null: zeros) to `to` (null: nowhere); they may be one.
template <int kVectors>
HR_INLINE void step_columns(const Rows& rows, int64_t row, float decay, int64_t state_size, int64_t head_dim, int64_t first,
                            const float* from, float* to) {
  const float *x = rows.x + row * rows.stride + first, *b = rows.b + row * rows.stride, *c = rows.c + row * rows.stride;
  F32x16 value[kVectors], y[kVectors];
#pragma GCC unroll 8
  for (int n = 0; n < kVectors; ++n) {
    const F32x16 input = load<F32x16>(x + 16 * n);
    value[n] = input * broadcast(rows.step[row]);
    y[n] = input * broadcast(rows.skip);
  }
  const F32x16 a = broadcast(decay);
  for (int64_t i = 0; i < state_size; ++i) {
    const F32x16 key = broadcast(b[i]), query = broadcast(c[i]);
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) {
      const int64_t at = i * head_dim + first + 16 * n;
      const F32x16 s = from ? fma(key, value[n], a * load<F32x16>(from + at)) : key * value[n];
      y[n] = fma(query, s, y[n]);
      if (to) store(to + at, s);
    }
  }
#pragma GCC unroll 8
  for (int n = 0; n < kVectors; ++n) store(rows.y + row * rows.y_stride + first + 16 * n, y[n]);
}

void step(const Rows& rows, int64_t row, int64_t state_size, int64_t head_dim, const float* from, float* to) {
  const float decay = std::exp(row ? rows.total[row] - rows.total[row - 1] : rows.total[0]);
  int64_t first = 0;
  for (; first + 64 <= head_dim; first += 64) step_columns<4>(rows, row, decay, state_size, head_dim, first, from, to);
  for (; first < head_dim; first += 16) step_columns<1>(rows, row, decay, state_size, head_dim, first, from, to);
}

// e^x for x at most 0; NaN stays NaN
HR_INLINE F32x16 exp_of(const F32x16& x) { return nan_of(x, exp2(x * broadcast(1.44269504f))); }

// Rows of the chunk, times steps, as the sums take them: scores [kChunk][kChunk], values and, where the state is kept, left_values.
void weigh_rows(const Rows& rows, int64_t head_dim, const float* products, bool keeps, Scratch& scratch) {
  float left[kChunk];
  const F32x16 zero = broadcast(0.0f), end = broadcast(rows.total[rows.count - 1]);
  for (int64_t j = 0; j < kChunk; j += 16) store(left + j, exp_of(end - load<F32x16>(rows.total + j)));
  for (int64_t j = 0; j < rows.count; ++j)
    for (int64_t k = 0; k < head_dim; k += 16) {
      const F32x16 value = load<F32x16>(rows.x + j * rows.stride + k) * broadcast(rows.step[j]);
      store(scratch.values.data() + j * head_dim + k, value);
      if (keeps) store(scratch.left_values.data() + j * head_dim + k, value * broadcast(left[j]));
    }
  for (int64_t i = 0; i < rows.count; ++i)
    for (int64_t j = 0; j < rows.count; j += 16) {
      const F32x16 since = broadcast(rows.total[i]) - load<F32x16>(rows.total + j), product = load<F32x16>(products + i * kChunk + j);
      store(scratch.scores.data() + i * kChunk + j, product * exp_of(nan_of(since, min(since, zero))));
    }
}

// kVectors times 16 columns of y of kRows rows from `row` on
template <int kRows, int kVectors>
HR_INLINE void read_rows(const Rows& rows, int64_t row, int64_t first, int64_t state_size, int64_t head_dim, const float* from,
                         const Scratch& scratch) {
  F32x16 y[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) y[r][n] = broadcast(0.0f);
  if (from) {
    add_products<kRows>(rows.c + row * rows.stride, rows.stride, from + first, head_dim, state_size, y);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const F32x16 decay = broadcast(std::exp(rows.total[row + r]));
#pragma GCC unroll 8
      for (int n = 0; n < kVectors; ++n) y[r][n] = y[r][n] * decay;
    }
  }
  add_products<kRows>(scratch.scores.data() + row * kChunk, kChunk, scratch.values.data() + first, head_dim, row + kRows, y);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) {
      const F32x16 x = load<F32x16>(rows.x + (row + r) * rows.stride + first + 16 * n);
      store(rows.y + (row + r) * rows.y_stride + first + 16 * n, fma(broadcast(rows.skip), x, y[r][n]));
    }
}

// kVectors times 16 columns of the state of kKeys keys from `key` on, after the chunk
template <int kKeys, int kVectors>
HR_INLINE void write_keys(const Rows& rows, int64_t key, int64_t first, int64_t head_dim, const float* keys, const float* from, float* to,
                          const Scratch& scratch) {
  const F32x16 decay = broadcast(std::exp(rows.total[rows.count - 1]));
  F32x16 s[kKeys][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kKeys; ++i)
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n)
      s[i][n] = from ? decay * load<F32x16>(from + (key + i) * head_dim + first + 16 * n) : broadcast(0.0f);
  add_products<kKeys>(keys + key * kChunk, kChunk, scratch.left_values.data() + first, head_dim, rows.count, s);
#pragma GCC unroll 8
  for (int i = 0; i < kKeys; ++i)
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) store(to + (key + i) * head_dim + first + 16 * n, s[i][n]);
}

template <int kVectors>
void run_columns(const Rows& rows, int64_t first, int64_t state_size, int64_t head_dim, const float* keys, const float* from, float* to,
                 const Scratch& scratch) {
  int64_t row = 0;
  for (; row + 4 <= rows.count; row += 4) read_rows<4, kVectors>(rows, row, first, state_size, head_dim, from, scratch);
  for (; row < rows.count; ++row) read_rows<1, kVectors>(rows, row, first, state_size, head_dim, from, scratch);
  for (int64_t n = 0; to && n < state_size; n += 4) write_keys<4, kVectors>(rows, n, first, head_dim, keys, from, to, scratch);
}

void run_chunk(const Rows& rows, int64_t state_size, int64_t head_dim, const Shared& shared, const float* from, float* to, Scratch& scratch) {
  weigh_rows(rows, head_dim, shared.products, to != nullptr, scratch);
  int64_t first = 0;
  for (; first + 16 * kProductVectors <= head_dim; first += 16 * kProductVectors)
    run_columns<kProductVectors>(rows, first, state_size, head_dim, shared.keys, from, to, scratch);
  for (; first < head_dim; first += 16) run_columns<1>(rows, first, state_size, head_dim, shared.keys, from, to, scratch);
}

// b and c: of the chunk's first row
void share_rows(const float* b, const float* c, int64_t stride, int64_t count, int64_t state_size, const Shared& shared) {
  for (int64_t i = 0; i < count; ++i) {
    float* products = shared.products + i * kChunk;
    std::fill_n(products, kChunk, 0.0f);
    for (int64_t j = 0; j <= i; ++j) {
      F32x16 product = broadcast(0.0f);
      for (int64_t k = 0; k < state_size; k += 16)
        product = fma(load<F32x16>(c + i * stride + k), load<F32x16>(b + j * stride + k), product);
      products[j] = sum_lanes(product);
    }
    for (int64_t n = 0; n < state_size; ++n) shared.keys[n * kChunk + i] = b[i * stride + n];
  }
}

template <class Element>
float step_of(const StateSpace& space, int64_t row, int64_t head) {
  const float raw = to_float(static_cast<const Element*>(space.steps)[row * space.row_stride + head]);
  const float shifted = space.step_scale * raw + space.dt_bias[head];
  const float softplus = shifted > 20 ? shifted : std::log1p(std::exp(shifted));
  // Not std::max: NaN must stay NaN.
  return softplus < space.min_step ? space.min_step : softplus > space.max_step ? space.max_step : softplus;
}

// Rows of the chunk that begins at `start`: it ends with the sequence, or where a state is stored.
int64_t rows_of_chunk(const StateSpace& space, int64_t start, int64_t end) {
  int64_t count = 0;
  while (count < kChunk && start + count < end && (count == 0 || space.targets[start + count - 1] < 0)) ++count;
  return count;
}

// `shared`: of the sequence's chunks, one after another
template <class Element>
void run_head(const StateSpace& space, int64_t sequence, int64_t head, float* shared, Scratch& scratch) {
  const int64_t N = space.state_size, P = space.head_dim, inner = space.num_heads * P;
  const auto place = [&](int32_t block) { return space.state + (block * space.num_heads + head) * N * P; };
  const int64_t group = head / (space.num_heads / space.num_groups), stride = inner + 2 * space.num_groups * N;
  const float rate = std::exp(space.A_log[head]);

  const float* from = space.sources[sequence] < 0 ? nullptr : place(space.sources[sequence]);
  const int64_t end = space.offsets[sequence + 1];
  for (int64_t start = space.offsets[sequence]; start < end;) {
    const float* row = space.xbc + start * stride;
    Rows rows{row + head * P, row + inner + group * N, row + inner + (space.num_groups + group) * N, space.y + start * inner + head * P,
              stride, inner, rows_of_chunk(space, start, end), {}, {}, space.D ? space.D[head] : 0.0f};
    float total = 0;
    for (int64_t i = 0; i < rows.count; ++i) {
      rows.step[i] = space.steps ? step_of<Element>(space, start + i, head) : 1.0f;
      rows.total[i] = total -= rate * rows.step[i];
    }
    start += rows.count;
    const int32_t target = space.targets[start - 1];
    float* to = target >= 0 ? place(target) : start < end ? scratch.state.data() : nullptr;
    if (rows.count >= kFewRows) {
      run_chunk(rows, N, P, Shared{shared, shared + kChunk * kChunk}, from, to, scratch);
      shared += kChunk * (kChunk + N);
    } else {
      for (int64_t i = 0; i < rows.count; ++i) {
        float* next = i + 1 < rows.count ? scratch.state.data() : to;
        step(rows, i, N, P, from, next);
        from = next;
      }
    }
    from = to;
  }
}

// Heads first..last-1 of a sequence, all of one group
template <class Element>
void run_heads(const StateSpace& space, int64_t sequence, int64_t first, int64_t last) {
  const WithoutSubnormals without_subnormals;
  Scratch& scratch = thread_scratch<Scratch>();
  const int64_t N = space.state_size, P = space.head_dim, inner = space.num_heads * P, size = kChunk * (kChunk + N);
  const int64_t group = first / (space.num_heads / space.num_groups), stride = inner + 2 * space.num_groups * N;
  const auto reserve = [](std::vector<float>& buffer, size_t size) { buffer.resize(std::max(buffer.size(), size)); };
  reserve(scratch.state, N * P);
  reserve(scratch.scores, kChunk * kChunk);
  for (auto* buffer : {&scratch.values, &scratch.left_values}) reserve(*buffer, kChunk * P);
  const int64_t end = space.offsets[sequence + 1];
  size_t num_shared = 0;
  for (int64_t start = space.offsets[sequence]; start < end;) {
    const int64_t count = rows_of_chunk(space, start, end);
    if (count >= kFewRows) {
      reserve(scratch.shared, (num_shared + 1) * size);
      float* products = scratch.shared.data() + num_shared++ * size;
      const float *b = space.xbc + start * stride + inner + group * N, *c = b + space.num_groups * N;
      share_rows(b, c, stride, count, N, Shared{products, products + kChunk * kChunk});
    }
    start += count;
  }
  for (int64_t head = first; head < last; ++head) run_head<Element>(space, sequence, head, scratch.shared.data(), scratch);
}

template <class Element>
void run(const StateSpace& space, int64_t num_sequences) {
  const int64_t rows_each = std::max<int64_t>(1, space.offsets[num_sequences] / std::max<int64_t>(1, num_sequences));
  const int64_t of_group = space.num_heads / space.num_groups, heads = rows_each < kFewRows ? 1 : std::min(of_group, kHeads);
  const int64_t parts = (of_group + heads - 1) / heads, cost = space.state_size * space.head_dim * rows_each * heads;
  parallel_for(num_sequences * space.num_groups * parts, std::max<int64_t>(1, kGrain / cost), [&](int64_t i) {
    const int64_t group = i / parts % space.num_groups, first = group * of_group + i % parts * heads;
    run_heads<Element>(space, i / parts / space.num_groups, first, std::min(first + heads, (group + 1) * of_group));
  });
}

// out = norm(y) of each run of channels, times silu(scale z) before or after the norm, or sigmoid(scale z) after it, times out_scale
template <class Element>
void gate_group(const InputSpec& norm, float* y, const Element* z, int64_t columns, bool gates_first, bool is_sigmoid, float gate_scale,
                float out_scale, Element* out) {
  const F32x16 scale = broadcast(gate_scale), last = broadcast(out_scale);
  const auto gate = [&](int64_t k) {
    const F32x16 v = scale * load_lanes(z + k);
    return is_sigmoid ? sigmoid(v) : silu(v);
  };
  if (gates_first)
    for (int64_t k = 0; k < columns; k += 16) store(y + k, load<F32x16>(y + k) * gate(k));
  if (norm.weight) normalize_row(norm, y, columns, y);
  for (int64_t k = 0; k < columns; k += 16) {
    const F32x16 v = load<F32x16>(y + k) * last;
    store_lanes(out + k, gates_first ? v : v * gate(k));
  }
}

}  // namespace

// xbc [T, H * P + 2 G * N] fp32: x by head, B by group, C by group. steps [T, H], in bf16 or fp32, with row_stride elements
// between rows; steps, dt_bias and D may be null. A_log, dt_bias, D [H] in fp32. state [blocks, H, N, P] fp32; sources, targets and offsets as in hr_causal_conv.
// y [T, H * P] fp32. N and P: multiples of 16.
HR_API void hr_state_space(const float* xbc, int is_bf16, const void* steps, int64_t row_stride, const float* A_log, const float* dt_bias,
                           const float* D, float step_scale, float min_step, float max_step, float* state, const int32_t* sources,
                           const int32_t* targets, const int32_t* offsets, int num_sequences, float* y, int num_heads, int num_groups,
                           int state_size, int head_dim) {
  const StateSpace space{xbc,     steps,   row_stride, A_log, dt_bias,   D,          step_scale, min_step, max_step, state,
                         sources, targets, offsets,    y,     num_heads, num_groups, state_size, head_dim};
  if (is_bf16)
    run<Bf16>(space, num_sequences);
  else
    run<float>(space, num_sequences);
}

HR_REPLAYABLE(hr_state_space)

// out [T, columns] = y (fp32, overwritten), with an RMS norm over each of num_groups runs of columns and the gate silu(gate_scale z),
// or its sigmoid, before the norm (gates_first) or after it. weight [columns] fp32; null: no norm. z, out: bf16 or fp32, z with z_stride elements
// between rows. columns / num_groups: a multiple of 16.
HR_API void hr_gate_and_norm(float* y, int is_bf16, const void* z, int64_t z_stride, const float* weight, float eps, int gates_first,
                             int is_sigmoid, float gate_scale, float out_scale, void* out, int64_t num_rows, int64_t columns, int num_groups) {
  const int64_t size = columns / num_groups;
  const auto gate = [&](auto* to) {
    using Element = std::remove_pointer_t<decltype(to)>;
    parallel_for(num_rows * num_groups, std::max<int64_t>(1, kGrain / size), [&](int64_t i) {
      const int64_t row = i / num_groups, first = i % num_groups * size;
      const InputSpec norm{InputKind::kRmsNorm, weight ? weight + first : nullptr, nullptr, eps};
      gate_group<Element>(norm, y + row * columns + first, static_cast<const Element*>(z) + row * z_stride + first, size, gates_first != 0,
                          is_sigmoid != 0, gate_scale, out_scale, to + row * columns + first);
    });
  };
  if (is_bf16)
    gate(static_cast<Bf16*>(out));
  else
    gate(static_cast<float*>(out));
}

HR_REPLAYABLE(hr_gate_and_norm)
