// Linear layers over scaled codes: out [M, N] = input(x) [M, K] * W^T (+ bias) (+ residual), weights as in scaled_codes.h.
//
// With a the row as scaled_rows.h prepares and rounds it,
//
//   integers  out[m, n] += scale_w[n, g] * (sum_s scale_a[m, s] * sum_k (code[n, k] - offset) a[m, k]
//                                           - zero[n, g] * sum_s scale_a[m, s] * sum_k a[m, k])
//             over steps s of 32 columns, each an exact integer from byte dot products, in runs that end with g
//             or the same for each half of a step, where 16 columns have a scale
//   floats    out[m, n] += scale_w[n, g] * sum_k value(code[n, k]) a[m, k]              over groups g, in fp32, by steps
//
// Few rows, and any number of rows that meet floats: a task is a panel of rows times a row block of 16 outputs, whose codes are
// unpacked once for as many rows as registers allow. With few rows it streams the block from memory; with many, a panel's later
// rows find it in the cache. Many rows that meet integers: integer_panel.h; many rows on AMX: scaled_amx.h.

#include <algorithm>
#include <type_traits>
#include <vector>

#include "linear/linear_kernels.h"
#include "linear/segments.h"
#include "quantized/integer_panel.h"
#include "quantized/shared_rows.h"
#include "runtime/parallel.h"
#include "runtime/replay.h"
#include "scaled/scaled_amx.h"
#include "scaled/scaled_codes.h"
#include "scaled/scaled_rows.h"
#include "simd/streaming.h"

using namespace hr;

namespace {

constexpr int kFewRows = 8 * kMostShared;  // of integers
constexpr int kVectorPanelRows = 64;
constexpr int64_t kPrepareAlone = 2048;  // elements; up to here one thread prepares the rows sooner than all of them would

// ---- vectors

// rows [R]: that step of the rows.
template <class Code, int R>
HR_INLINE void multiply_step(const uint8_t* p, const IntegerGroup* rows, F32x16 (&run)[R]) {
  constexpr int kChains = kSharedChains<R>;
  Bits codes[kVectors];
  Code::unpack(p, codes);
  I32x16 sums[R][kChains];
  multiply_codes<Code::kOffset>(codes, rows, sums);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const I32x16 sum = kChains == 2 ? sums[r][0] + sums[r][kChains - 1] : sums[r][0];
    run[r] = fma(to_float(sum), broadcast(rows[r].scale), run[r]);
  }
}

// rows: a tile of R; factor [R]: of their results.
template <class Code, int R>
__attribute__((noinline)) void multiply_integers(const ScaledMatrix& m, const uint8_t* block, const IntegerGroup* rows,
                                                 const float* factor, F32x16* results) {
  F32x16 out[R] = {};
  const uint8_t* p = block;
  for (int64_t g = 0, step = 0; g < m.groups; ++g) {
    if (g % kChunkGroups == 0) {
      prefetch_lines(p + kPrefetchBytes, m.header_bytes);
      p += m.header_bytes;
    }
    F32x16 scale;
    m.scales<Code>(block, g, &scale);
    for (const int64_t end = std::min(step + m.steps_a_group, m.num_steps()); step < end;) {
      const int64_t stop = run_end(step, end);
      const IntegerGroup* const first = rows;
      F32x16 run[R] = {};
      for (; step < stop; ++step, p += Code::kBytes, rows += R) {
        prefetch_lines(p + kPrefetchBytes, Code::kBytes);
        multiply_step<Code, R>(p, rows, run);
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) out[r] = fma(run[r], scale, out[r]);
      if (!m.format.has_zeros) continue;
      const F32x16 minimum = broadcast(-1.0f) * scale * m.zeros(block, g);
      float row_sums[R] = {};
      for (const IntegerGroup* group = first; group < rows; group += R)
        for (int r = 0; r < R; ++r) row_sums[r] += group[r].sum;
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) out[r] = fma(minimum, broadcast(row_sums[r]), out[r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) results[r] = out[r] * broadcast(factor[r]);
}

// The same for codes with two scales for 32 columns; added in the order of multiply_tile(), so that a row's sums are the same.
template <class Code, int R>
__attribute__((noinline)) void multiply_pairs(const ScaledMatrix& m, const uint8_t* block, const IntegerGroup* rows,
                                              const float* factor, F32x16* results) {
  F32x16 out[R] = {};
  const uint8_t* p = block + m.prefix_bytes;
  for (int64_t step = 0; step < m.num_steps(); ++step, p += Code::kBytes, rows += R) {
    if (step % kChunkGroups == 0) {
      prefetch_lines(p + kPrefetchBytes, m.header_bytes);
      p += m.header_bytes;
    }
    prefetch_lines(p + kPrefetchBytes, Code::kBytes);
    F32x16 scale[2];
    m.scales<Code>(block, step, scale);
    Bits codes[kVectors];
    Code::unpack(p, codes);
    I32x16 sums[R][2];
    multiply_codes<Code::kOffset>(codes, rows, sums);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int s = 0; s < 2; ++s) out[r] = fma(to_float(sums[r][s]) * broadcast(rows[r].scale), scale[s], out[r]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) results[r] = out[r] * broadcast(factor[r]);
}

// sums [R] += the products of kSteps steps. p: their codes; x: the first row's columns of them.
template <class Code, int kSteps, int R>
HR_INLINE void add_steps(const uint8_t* p, const float* x, int64_t row_stride, F32x16 (&sums)[R]) {
  F32x16 products[kSteps][R] = {};
  for (int pair = 0; pair < kGroup / 2; ++pair)
#pragma GCC unroll 4
    for (int s = 0; s < kSteps; ++s) {
      F32x16 w[2];
      Code::unpack(p + s * Code::kBytes, pair, w);
#pragma GCC unroll 2
      for (int c = 0; c < 2; ++c)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
          products[s][r] = fma(w[c], broadcast(x[r * row_stride + s * kGroup + 2 * pair + c]), products[s][r]);
    }
#pragma GCC unroll 4
  for (int s = 0; s < kSteps; ++s)
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sums[r] = sums[r] + products[s][r];
}

// A step is one chain of products, and steps are added up one after the other, so that a row's results do not depend on how many
// rows share the weights. With few rows several steps are computed at once: in one chain each product waits for the one before.
template <class Code, int R>
__attribute__((noinline)) void multiply_floats(const ScaledMatrix& m, const uint8_t* block, const PreparedRows& rows, int64_t row,
                                               F32x16* results) {
  constexpr int kAtOnce = R == 1 ? 4 : R == 2 ? 2 : 1;
  F32x16 out[R] = {};
  const uint8_t* p = block;
  const float* x = rows.values + row * rows.columns;
  for (int64_t g = 0, step = 0; g < m.groups; ++g) {
    if (g % kChunkGroups == 0) {
      prefetch_lines(p + kPrefetchBytes, m.header_bytes);
      p += m.header_bytes;
    }
    F32x16 sums[R] = {};
    const auto add = [&](auto steps) {
      prefetch_lines(p + kPrefetchBytes, steps * Code::kBytes);
      add_steps<Code, steps>(p, x, rows.columns, sums);
      step += steps, p += steps * Code::kBytes, x += steps * kGroup;
    };
    const int64_t end = std::min(step + m.steps_a_group, m.num_steps());
    while (step + kAtOnce <= end) add(std::integral_constant<int, kAtOnce>{});
    if constexpr (kAtOnce == 4)
      if (step + 2 <= end) add(std::integral_constant<int, 2>{});
    if constexpr (kAtOnce > 1)
      if (step < end) add(std::integral_constant<int, 1>{});
    F32x16 scale;
    m.scales<Code>(block, g, &scale);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) out[r] = fma(sums[r], scale, out[r]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) results[r] = out[r] * broadcast(rows.factor[row + r]);
}

void vector_task(const ScaledLayer& layer, const PreparedRows& rows, const BlockPlace& place, int64_t first_row, int64_t end_row) {
  const ScaledMatrix m = layer.matrix(*place.segment);
  const uint8_t* block = place.segment->packed + place.block * m.block_bytes;
  for (int64_t row = first_row; row < end_row; row += kMostShared) {
    F32x16 results[kMostShared];
    const int count = static_cast<int>(std::min<int64_t>(kMostShared, end_row - row));
    with_shared_rows(count, [&](auto shared) {
      constexpr int R = decltype(shared)::value;
      if (m.format.is_integer())
        with_integer_code(m.format, [&](auto code) {
          constexpr bool kHasPairs = decltype(code)::kScales == 2;
          const auto multiply = kHasPairs ? multiply_pairs<decltype(code), R> : multiply_integers<decltype(code), R>;
          multiply(m, block, rows.integers.tile(row), rows.factor + row, results);
        });
      else
        with_float_code(m.format.code, [&](auto code) { multiply_floats<decltype(code), R>(m, block, rows, row, results); });
    });
    for (int r = 0; r < count; ++r) layer.out.put(row + r, place.column, place.outputs, results[r], place.bias);
  }
}

void vector_rows(const ScaledLayer& layer) {
  const int64_t num_blocks = num_places(layer.segments, layer.num_segments, 1);
  const int64_t num_panels = (layer.num_rows + kVectorPanelRows - 1) / kVectorPanelRows;
  const int64_t grain = streamed_blocks(layer.matrix(layer.segments[0]).block_bytes, num_blocks, num_threads());
  const PreparedRows rows = thread_scratch<PreparedRowMemory>().reserve(layer, kMostShared, last_shared_rows(layer.num_rows));
  const bool alone = layer.num_rows * layer.columns <= kPrepareAlone;
  parallel_for(layer.num_rows, alone ? layer.num_rows : 1, [&](int64_t row) { prepare_into(layer, row, rows); });
  parallel_for(num_panels * num_blocks, num_panels == 1 ? grain : 1, [&](int64_t task) {
    const int64_t first_row = task % num_panels * kVectorPanelRows;
    vector_task(layer, rows, place_block(layer.segments, task / num_panels), first_row,
                std::min(layer.num_rows, first_row + kVectorPanelRows));
  });
}

// ---- many rows of integers

template <class Code>
struct PanelWeights {
  const ScaledMatrix& m;
  const uint8_t* first;  // row block

  HR_INLINE void expand(int c, int64_t step, int i, Expanded& out) const {
    const uint8_t* block = first + c * m.block_bytes;
    const int64_t group = step / m.steps_a_group;
    Bits codes[kVectors];
    Code::unpack(block + m.codes_at(step), codes);
    for (int v = 0; v < kVectors; ++v) store(out.codes[i][v], codes[v]);
    F32x16 scale[Code::kScales];
    m.scales<Code>(block, group, scale);
#pragma GCC unroll 2
    for (int s = 0; s < Code::kScales; ++s) store(out.scale[i][s], scale[s]);
    if (m.format.has_zeros) store(out.minimum[i][0], broadcast(-1.0f) * scale[0] * m.zeros(block, group));
  }
  HR_INLINE void prefetch(int c, int64_t step) const {
    prefetch_lines(first + c * m.block_bytes + m.codes_at(step), Code::kBytes);
  }
};

void integer_rows(const ScaledLayer& layer) {
  const PreparedRows rows = thread_scratch<PreparedRowMemory>().reserve(layer, kTileRows, kTileRows);
  parallel_for(layer.num_rows, 4, [&](int64_t row) { prepare_into(layer, row, rows); });
  for_each_panel(layer.segments, layer.num_segments, layer.num_rows,
                 [&](const BlockPlace& place, int64_t first_row, int num_rows, PanelMemory& memory) {
                   const ScaledMatrix m = layer.matrix(*place.segment);
                   const uint8_t* first = place.segment->packed + place.block * m.block_bytes;
                   const int num_blocks = (place.outputs + kBlockRows - 1) / kBlockRows;
                   with_integer_code(m.format, [&](auto code) {
                     using Weights = PanelWeights<decltype(code)>;
                     constexpr int kOffset = decltype(code)::kOffset, kScales = decltype(code)::kScales;
                     auto multiply = multiply_panel<kScales, false, kOffset, Weights>;
                     if constexpr (kScales == 1)
                       if (m.format.has_zeros) multiply = multiply_panel<1, true, kOffset, Weights>;
                     multiply({m, first}, num_blocks, rows.integers, first_row, num_rows, m.steps_a_group, memory);
                   });
                   layer.put_panel(place, first_row, num_rows, memory.sums, rows.factor);
                 });
}

}  // namespace

// Over matrices of scaled codes, all of integers or all of floats. K is a multiple of 16. permutation: null, or [K] columns of the
// input in the order of the codes' columns. rounding: Rounding, with the scale of kStatic; only int8, ternary weights and FP8, and by groups
// only FP8, can be rounded to.
HR_API void hr_scaled_linear(HR_LINEAR_PARAMETERS, const int32_t* permutation, int rounding, float input_scale) {
  const ScaledLayer layer{linear_layer(HR_LINEAR_ARGUMENTS), permutation, static_cast<Rounding>(rounding), input_scale};
  if (num_rows == 0) return;
#if HR_AMX
  if (num_rows >= kAmxRows && allows_amx) return amx_rows(layer);
#endif
  if (num_rows > kFewRows && layer.has_integers())
    integer_rows(layer);
  else
    vector_rows(layer);
}

HR_REPLAYABLE(hr_scaled_linear)
