// Products of bf16 or fp32 rows with packed blocks of 16 outputs: [K / pack][16 outputs][pack], as dense_weights.cpp lays
// them out. A unit is what a lane holds of a row: a pair of bf16 columns, or one of fp32.
#pragma once

#include <cstdint>

#include "linear/segments.h"
#include "simd/simd.h"

namespace hr {

// Of a packed block.
template <class Element>
int64_t dense_block_bytes(int64_t columns) {
  return columns * kBlockRows * sizeof(Element);
}

// How many rows share one pass over a block where there are few; and in a register tile where there are many.
#if defined(__AVX512F__)
constexpr int kDenseSharedRows[] = {1, 2, 4, 6, 8}, kDenseTileRows = 6, kDenseHalfTileRows = 3;
#else
constexpr int kDenseSharedRows[] = {1, 2}, kDenseTileRows = 2, kDenseHalfTileRows = 1;
#endif

// sums[r][c] += rows[r] . blocks[c] over num_units units; `block` and `rows` point at the first
template <int R, int C, class Element>
HR_INLINE void multiply_add(const uint8_t* block, int64_t block_stride, const Element* rows, int64_t row_stride,
                            int64_t num_units, F32x16 (&sums)[R][C]) {
  for (int64_t k = 0; k < num_units; ++k) {
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
