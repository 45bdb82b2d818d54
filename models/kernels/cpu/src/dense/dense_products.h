// Products of bf16 or fp32 rows with packed blocks of 16 outputs: [K / pack][16 outputs][pack], as dense_weights.cpp lays
// them out. A unit is what a lane holds of a row: a pair of bf16 columns, or one of fp32.
#pragma once

#include <cstdint>

#include "linear/segments.h"
#include "simd/row_pairs.h"
#include "simd/simd.h"

namespace hr {

// Of a packed block.
template <class Element>
int64_t dense_block_bytes(int64_t columns) {
  return columns * kBlockRows * sizeof(Element);
}

// How many rows share one pass over a block where there are few; and rows and blocks of a register tile where there are many.
#if defined(__AVX512F__)
constexpr int kDenseSharedRows[] = {1, 2, 4, 6, 8}, kDenseTileRows = 6, kDenseHalfTileRows = 3, kDenseTileBlocks = 4;
#elif defined(__aarch64__)
constexpr int kDenseSharedRows[] = {1, 2, 4}, kDenseTileRows = 4, kDenseHalfTileRows = 2, kDenseTileBlocks = 1;
#else
constexpr int kDenseSharedRows[] = {1, 2}, kDenseTileRows = 2, kDenseHalfTileRows = 1, kDenseTileBlocks = 4;
#endif

#if HR_ROW_PAIRS
// multiply_add() with pairs of rows and of units, up to a last odd one; sums are added up in the same order, and are the same. Returns
// the number of units.
template <int R, int C>
HR_INLINE int64_t multiply_pairs(const uint8_t* block, int64_t block_stride, const Bf16* rows, int64_t row_stride,
                                 int64_t num_units, F32x16 (&sums)[R][C]) {
  RowPair<F32x16> tile[R / 2][C];
#pragma GCC unroll 8
  for (int p = 0; p < R / 2; ++p)
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) tile[p][c] = {sums[2 * p][c], sums[2 * p + 1][c]};
  int64_t k = 0;
  for (; k + 2 <= num_units; k += 2) {
    uint8x16_t x[R / 2];
#pragma GCC unroll 8
    for (int p = 0; p < R / 2; ++p) {
      const Bf16* const first = rows + 2 * p * row_stride + 2 * k;
      x[p] = load_pair(first, first + row_stride);
    }
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      const RowPair<Bits> w = output_pairs(block + c * block_stride + 64 * k);
#pragma GCC unroll 8
      for (int i = 0; i < 2 * kRegisters; ++i)
#pragma GCC unroll 8
        for (int p = 0; p < R / 2; ++p)
          tile[p][c].r[i] = (NativeF)vbfmmlaq_f32((float32x4_t)tile[p][c].r[i], (bfloat16x8_t)w.r[i], (bfloat16x8_t)x[p]);
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < R / 2; ++p)
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) tile[p][c].split(sums[2 * p][c], sums[2 * p + 1][c]);
  return k;
}
#endif

// sums[r][c] += rows[r] . blocks[c] over num_units units; `block` and `rows` point at the first
template <int R, int C, class Element>
HR_INLINE void multiply_add(const uint8_t* block, int64_t block_stride, const Element* rows, int64_t row_stride,
                            int64_t num_units, F32x16 (&sums)[R][C]) {
  int64_t k = 0;
#if HR_ROW_PAIRS
  if constexpr (kPack<Element> == 2 && R % 2 == 0) k = multiply_pairs<R, C>(block, block_stride, rows, row_stride, num_units, sums);
#endif
  for (; k < num_units; ++k) {
    Bits w[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) w[c] = load<Bits>(block + c * block_stride + 64 * k);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const uint32_t x = load_u32(rows + r * row_stride + kPack<Element> * k);
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) sums[r][c] = add_product<Element>(sums[r][c], x, w[c]);
    }
  }
}

}  // namespace hr
