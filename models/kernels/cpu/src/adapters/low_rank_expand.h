// The second half of an adapter: out = gain * out + b ranks + shift. A block's sum is one chain of dot products, which begins with
// `out` where it is only added to. expand_sums.h does it before a layer's outputs are rounded, and expand_stored.h after it.
#pragma once

#include <algorithm>

#include "adapters/low_rank.h"
#include "adapters/low_rank_shrink.h"
#include "dense/dense_products.h"

namespace hr {

// f(R, first row, number of rows) for `count` rows in tiles of R rows, an integral constant
template <class Function>
HR_INLINE void for_each_row_tile(int count, const Function& f) {
  int r = 0;
  for (; count - r > 2; r += kDenseTileRows)
    f(std::integral_constant<int, kDenseTileRows>{}, r, std::min(kDenseTileRows, count - r));
  if (count - r == 2) f(std::integral_constant<int, 2>{}, r, 2);
  if (count - r == 1) f(std::integral_constant<int, 1>{}, r, 1);
}

// C whole blocks of outputs of a pair that only adds. outputs.load(rows, column, tile) gives their lanes in rows[0 .. R - 1], and
// outputs.put(rows, count, column, tile) replaces them in the first `count` of these. ranks [R][rank_stride].
template <int R, int C, class Outputs>
HR_INLINE void add_tile(const Outputs& outputs, const hr_low_rank_pair& pair, int64_t block, const Bf16* ranks, int64_t rank_stride,
                        const int32_t* rows, int count) {
  const int64_t column = pair.first + block * kBlockRows, stride = low_rank_bytes(pair.rank);
  F32x16 tile[R][C];
  outputs.load(rows, count, column, tile);
  multiply_add<R, C>(pair.b + block * stride, stride, ranks, rank_stride, pair.rank / 2, tile);
  outputs.put(rows, count, column, tile);
}

// Blocks first_block .. end_block - 1 of such a pair, of all rows. ranks [count + kSpareRows][rank_stride]: what is in
// the spare ones does not matter.
template <class Outputs>
__attribute__((noinline)) void add_blocks(const Outputs outputs, const hr_low_rank_pair& pair, int64_t first_block,
                                          int64_t end_block, const Bf16* ranks, int64_t rank_stride, const int32_t* rows,
                                          int count) {
  for (int64_t block = first_block; block < end_block; block += kSpan)
    with_blocks(end_block - block, [&](auto blocks) {
      for_each_row_tile(count, [&](auto tile_rows, int r, int wanted) {
        add_tile<tile_rows, blocks>(outputs, pair, block, ranks + r * rank_stride, rank_stride, rows + r, wanted);
      });
    });
}

}  // namespace hr
