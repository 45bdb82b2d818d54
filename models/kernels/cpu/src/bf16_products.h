// Products of bf16 rows with packed blocks of 16 outputs: [pairs of columns][16 outputs][2], as bf16_linear.cpp lays them out.
#pragma once

#include <cstdint>

#include "simd.h"

namespace hr {

// How many rows share one pass over a block where there are few; and in a register tile where there are many.
#if defined(__AVX512F__)
constexpr int kBf16SharedRows[] = {1, 2, 4, 6, 8}, kBf16TileRows = 6, kBf16HalfTileRows = 3;
#else
constexpr int kBf16SharedRows[] = {1, 2}, kBf16TileRows = 2, kBf16HalfTileRows = 1;
#endif

// sums[r][c] += rows[r] . blocks[c] over num_pairs pairs; `block` and `rows` point at the first pair
template <int R, int C>
HR_INLINE void multiply_add(const uint8_t* block, int64_t block_stride, const Bf16* rows, int64_t row_stride, int64_t num_pairs,
                            F32x16 (&sums)[R][C]) {
  for (int64_t k = 0; k < num_pairs; ++k) {
    Bits w[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) w[c] = load<Bits>(block + c * block_stride + 64 * k);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const uint32_t x = load_u32(rows + r * row_stride + 2 * k);
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) sums[r][c] = dot_bf16(sums[r][c], x, w[c]);
    }
  }
}

}  // namespace hr
