// Many rows of int8 times integer weights. Bound by arithmetic: a panel of rows meets two row blocks (32 outputs). Along K in
// steps of kStepGroups groups, the weights are unpacked once into a buffer that stays in the first-level cache, and register
// tiles of kTileRows rows x kTileBlocks blocks pass over it; sums over steps stay in an fp32 buffer. The rows of a panel are
// many, since each panel unpacks all weights that it meets, and few enough for their codes of a step to stay in the second-level
// cache.
//
// Where weights have one scale for several groups of the rows' columns, the sums over such a run are multiplied by the rows'
// scales only, and by the weights' scale once at its end (run_end() says where that is).
#pragma once

#include <type_traits>

#include "linear/segments.h"
#include "quantized/integer_rows.h"
#include "runtime/parallel.h"
#include "simd/row_pairs.h"
#include "simd/streaming.h"

namespace hr {

#if defined(__AVX512F__)
constexpr int kTileRows = 6, kHalfTileRows = 3, kTileBlocks = 2;
#elif defined(__aarch64__)
constexpr int kTileRows = 4, kHalfTileRows = 2, kTileBlocks = 1;
#else
constexpr int kTileRows = 2, kHalfTileRows = 1, kTileBlocks = 2;
#endif
constexpr int kStepGroups = 16;  // 512 columns
constexpr int kPanelRows = 480, kLeastPanelRows = 48;

// kStepGroups groups of one row block, unpacked; minus the codes' offset a group's weights are scale * code + minimum.
struct Expanded {
  alignas(64) uint8_t codes[kStepGroups][kVectors][64];
  alignas(64) float scale[kStepGroups][2][16];
  alignas(64) float minimum[kStepGroups][2][16];
};

struct PanelMemory {
  Expanded weights[2];
  alignas(64) float sums[kPanelRows][2 * kBlockRows];
};

// The end of the run that begins with `group`: where the weights' scale changes, or a step of a panel ends. Kernels for few rows
// and for many keep to it, so that both add the same numbers in the same order.
HR_INLINE int64_t run_end(int64_t group, int64_t scale_end) {
  return std::min(scale_end, (group / kStepGroups + 1) * kStepGroups);
}

// products [R rows][C blocks]: of part s of the kScales parts of weights i, an integer each. rows [R]: that group of a tile's rows.
// offset_bits: the codes' offset is 2^offset_bits, or 0 without one. Formats share the code, which is why it is no constant.
template <int kScales, bool kHasOffset, int R, int C>
HR_INLINE void multiply_part(const Expanded* weights, int offset_bits, const IntegerGroup* rows, int i, int s,
                             I32x16 (&products)[R][C]) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    I32x16 start = broadcast(0);
    const I32x16 minus_sum = broadcast(rows[r].template minus_sum_of<kScales>(s));
    if constexpr (kHasOffset) start = shift_left(minus_sum, offset_bits);
    if constexpr (kByteZero != 0) start = start + minus_sum * -kByteZero;
#pragma GCC unroll 2
    for (int c = 0; c < C; ++c) products[r][c] = start;
  }
  constexpr int kPart = kVectors / kScales;
#if HR_ROW_PAIRS  // codes are in pairs of outputs
  static_assert(R % 2 == 0 && C == 1);
  RowPair<I32x16> pairs[R / 2];
#pragma GCC unroll 4
  for (int v = s * kPart; v < (s + 1) * kPart; v += 2)
#pragma GCC unroll 4
    for (int p = 0; p < R / 2; ++p) {
      const int8x16_t x = (int8x16_t)load_pair(rows[2 * p].codes + 4 * v, rows[2 * p + 1].codes + 4 * v);
#pragma GCC unroll 8
      for (int o = 0; o < 2 * kRegisters; ++o)
        pairs[p].r[o] = (NativeI)vusmmlaq_s32((int32x4_t)pairs[p].r[o], vld1q_u8(weights->codes[i][v] + 16 * o), x);
    }
#pragma GCC unroll 4
  for (int p = 0; p < R / 2; ++p) {
    I32x16 first, second;
    pairs[p].split(first, second);
    products[2 * p][0] = products[2 * p][0] + first;
    products[2 * p + 1][0] = products[2 * p + 1][0] + second;
  }
#else
#pragma GCC unroll 8
  for (int v = s * kPart; v < (s + 1) * kPart; ++v) {
    Bits w[C];
#pragma GCC unroll 2
    for (int c = 0; c < C; ++c) w[c] = load<Bits>(weights[c].codes[i][v]);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const uint32_t x = load_u32(rows[r].codes + 4 * v);
#pragma GCC unroll 2
      for (int c = 0; c < C; ++c) products[r][c] = dot_bytes(products[r][c], w[c], x);
    }
  }
#endif
}

// sums [R rows][C blocks] += one step of weights with a scale (or two) for each group. rows: the tile's, from the step's first
// group on.
template <int kScales, bool kHasMinimum, bool kHasOffset, int R, int C>
void multiply_tile(const Expanded* weights, int offset_bits, const IntegerGroup* rows, int64_t, int num_groups, int64_t,
                   float* sums) {
  F32x16 out[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int c = 0; c < C; ++c) out[r][c] = load<F32x16>(sums + (r * 2 + c) * kBlockRows);
  for (int i = 0; i < num_groups; ++i, rows += kTileRows) {
#pragma GCC unroll 2
    for (int s = 0; s < kScales; ++s) {
      I32x16 products[R][C];
      multiply_part<kScales, kHasOffset>(weights, offset_bits, rows, i, s, products);
#pragma GCC unroll 2
      for (int c = 0; c < C; ++c) {
        const F32x16 scale = load<F32x16>(weights[c].scale[i][s]);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) out[r][c] = fma(to_float(products[r][c]) * broadcast(rows[r].scale), scale, out[r][c]);
      }
      if constexpr (kHasMinimum) {
#pragma GCC unroll 2
        for (int c = 0; c < C; ++c) {
          const F32x16 minimum = load<F32x16>(weights[c].minimum[i][s]);
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) out[r][c] = fma(minimum, broadcast(rows[r].template sum_of<kScales>(s)), out[r][c]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int c = 0; c < C; ++c) store(sums + (r * 2 + c) * kBlockRows, out[r][c]);
}

// The same for weights with a scale for groups_a_scale groups. A run's sums take the registers, and the step's stay in memory.
template <bool kHasMinimum, bool kHasOffset, int R, int C>
void multiply_runs(const Expanded* weights, int offset_bits, const IntegerGroup* rows, int64_t first_group, int num_groups,
                   int64_t groups_a_scale, float* sums) {
  for (int i = 0; i < num_groups;) {
    const int64_t group = first_group + i, scale_end = (group / groups_a_scale + 1) * groups_a_scale;
    const int first = i, end = std::min(num_groups, static_cast<int>(run_end(group, scale_end) - first_group));
    F32x16 run[R][C] = {};
    float row_sums[R] = {};
    for (; i < end; ++i, rows += kTileRows) {
      I32x16 products[R][C];
      multiply_part<1, kHasOffset>(weights, offset_bits, rows, i, 0, products);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const F32x16 scale = broadcast(rows[r].scale);
        if constexpr (kHasMinimum) row_sums[r] += rows[r].sum;
#pragma GCC unroll 2
        for (int c = 0; c < C; ++c) run[r][c] = fma(to_float(products[r][c]), scale, run[r][c]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int c = 0; c < C; ++c) {
        float* target = sums + (r * 2 + c) * kBlockRows;
        F32x16 out = fma(run[r][c], load<F32x16>(weights[c].scale[first][0]), load<F32x16>(target));
        if constexpr (kHasMinimum) out = fma(load<F32x16>(weights[c].minimum[first][0]), broadcast(row_sums[r]), out);
        store(target, out);
      }
    }
  }
}

// memory.sums = the products of rows first_row .. and num_blocks (1 or 2) row blocks.
// weights.expand(c, group, i, out) unpacks group `group` of block c as out's group i; weights.prefetch(c, group) asks for its
// memory, also beyond the last group, for what is multiplied next. kOffset: of the codes, 0 or a power of two.
template <int kScales, bool kHasMinimum, int kOffset, class Weights>
void multiply_panel(const Weights& weights, int num_blocks, const IntegerRows& a, int64_t first_row, int num_rows,
                    int64_t groups_a_scale, PanelMemory& memory) {
  std::memset(memory.sums, 0, sizeof(memory.sums[0]) * std::min(kPanelRows, num_rows + kTileRows));
  constexpr bool kHasOffset = kOffset != 0;
  constexpr int kOffsetBits = kHasOffset ? __builtin_ctz(kOffset) : 0;
  static_assert(kOffset == 0 || kOffset == 1 << kOffsetBits);
  const auto multiply = [&](auto rows) {
    constexpr int R = decltype(rows)::value, C = kTileBlocks;
    if constexpr (kScales == 1)
      if (groups_a_scale > 1)
        return num_blocks == 2 ? multiply_runs<kHasMinimum, kHasOffset, R, C> : multiply_runs<kHasMinimum, kHasOffset, R, 1>;
    return num_blocks == 2 ? multiply_tile<kScales, kHasMinimum, kHasOffset, R, C>
                           : multiply_tile<kScales, kHasMinimum, kHasOffset, R, 1>;
  };
  const auto tile = multiply(std::integral_constant<int, kTileRows>{});
  const auto half_tile = multiply(std::integral_constant<int, kHalfTileRows>{});
  const int num_tiles = (num_rows + kTileRows - 1) / kTileRows;
  for (int64_t group = 0; group < a.groups; group += kStepGroups) {
    const int num_groups = static_cast<int>(std::min<int64_t>(kStepGroups, a.groups - group));
    for (int c = 0; c < num_blocks; ++c)
      for (int i = 0; i < num_groups; ++i) {
        weights.expand(c, group + i, i, memory.weights[c]);
#if HR_ROW_PAIRS
        for (int v = 0; v < kVectors; v += 2) {
          uint8_t* const codes = memory.weights[c].codes[i][v];
          const RowPair<Bits> pairs = output_pairs(codes);
          std::memcpy(codes, pairs.r, sizeof(pairs.r));
        }
#endif
      }
    // the next step's memory comes while this one is multiplied
    int64_t prefetched = 0;
    for (int t = 0; t < num_tiles; ++t) {
      const int row = t * kTileRows;
      const auto multiply_rows = num_rows - row > kHalfTileRows ? tile : half_tile;
      for (int c = 0; c < num_blocks; c += kTileBlocks)
        multiply_rows(memory.weights + c, kOffsetBits, a.tile(first_row + row) + group * kTileRows, group, num_groups,
                      groups_a_scale, memory.sums[row] + c * kBlockRows);
      for (const int64_t target = (t + 1) * kStepGroups / num_tiles; prefetched < target; ++prefetched)
        for (int c = 0; c < num_blocks; ++c) weights.prefetch(c, group + kStepGroups + prefetched);
    }
  }
}

// f(place, first_row, num_rows, memory) for every two row blocks of the segments and every panel of the rows.
template <class Function>
void for_each_panel(const hr_segment* segments, int num_segments, int64_t num_rows, const Function& f) {
  const int64_t num_pairs = num_places(segments, num_segments, 2);
  // as few panels as memory allows, unless threads would have nothing to do
  const int64_t least = (num_rows + kPanelRows - 1) / kPanelRows, most = std::max(least, num_rows / kLeastPanelRows);
  const int64_t num_panels = std::clamp((4 * num_threads() + num_pairs - 1) / num_pairs, least, most);
  // of equal height, in whole register tiles
  const int64_t height = ((num_rows + num_panels - 1) / num_panels + kTileRows - 1) / kTileRows * kTileRows;
  parallel_for(num_pairs * num_panels, [&](int64_t task) {
    const int64_t first_row = task % num_panels * height, count = std::min(height, num_rows - first_row);
    if (count > 0)
      f(place_block(segments, task / num_panels, 2), first_row, static_cast<int>(count), thread_scratch<PanelMemory>());
  });
}

}  // namespace hr
