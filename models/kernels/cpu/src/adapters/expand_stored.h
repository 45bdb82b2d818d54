// Adapters of outputs that a layer's call has rounded and stored.
#pragma once

#include <algorithm>

#include "adapters/low_rank_expand.h"

namespace hr {

template <class Element>
struct StoredOutputs {
  Element* data;   // [M, stride]
  int64_t stride;  // elements between rows

  template <int R, int C>
  HR_INLINE void load(const int32_t* rows, int count, int64_t column, F32x16 (&tile)[R][C]) const {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) tile[r][c] = load_lanes(data + rows[std::min(r, count - 1)] * stride + column + c * kBlockRows);
  }

  template <int R, int C>
  HR_INLINE void put(const int32_t* rows, int count, int64_t column, const F32x16 (&tile)[R][C]) const {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
      if (r < count)
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) store_lanes(data + rows[r] * stride + column + c * kBlockRows, tile[r][c]);
  }
};

// lanes 0 .. count - 1 of v are added to out; gain, shift: of these outputs, or null
template <class Element>
HR_INLINE void add_lanes(Element* out, int count, F32x16 v, const float* gain, const float* shift) {
  if (shift) v = v + load<F32x16>(shift);
  if (count == kBlockRows) {
    const F32x16 before = load_lanes(out);
    store_lanes(out, gain ? fma(before, load<F32x16>(gain), v) : before + v);
    return;
  }
  float lanes[kBlockRows];
  store(lanes, v);
  for (int i = 0; i < count; ++i) store_one(out + i, to_float(out[i]) * (gain ? gain[i] : 1.0f) + lanes[i]);
}

// A block of outputs that are scaled or shifted, or a ragged end.
template <int R, class Element>
__attribute__((noinline)) void change_tile(const StoredOutputs<Element>& out, const hr_low_rank_pair& pair, int64_t block,
                                           const Bf16* ranks, int64_t rank_stride, const int32_t* rows, int count) {
  F32x16 tile[R][1] = {};
  const int64_t stride = low_rank_bytes(pair.rank), output = block * kBlockRows;
  multiply_add<R, 1>(pair.b + block * stride, stride, ranks, rank_stride, pair.rank / 2, tile);
  const int num_outputs = static_cast<int>(std::min<int64_t>(kBlockRows, pair.rows - output));
  for (int r = 0; r < count; ++r)
    add_lanes(out.data + rows[r] * out.stride + pair.first + output, num_outputs, tile[r][0],
              pair.gain ? pair.gain + output : nullptr, pair.shift ? pair.shift + output : nullptr);
}

// Blocks first_block .. end_block - 1 of the pair's outputs, of rows[0 .. count - 1]. ranks [count + kSpareRows][rank_stride]: of
// these rows, the pair's; what is in the spare ones does not matter.
template <class Element>
void expand_stored(const StoredOutputs<Element>& out, const hr_low_rank_pair& pair, int64_t first_block, int64_t end_block,
                   const Bf16* ranks, int64_t rank_stride, const int32_t* rows, int count) {
  int64_t block = first_block;
  if (!pair.gain && !pair.shift) {
    const int64_t whole = std::min<int64_t>(end_block, pair.rows / kBlockRows);
    if (block < whole) add_blocks(out, pair, block, whole, ranks, rank_stride, rows, count);
    block = std::max(first_block, whole);
  }
  for (; block < end_block; ++block)
    for_each_row_tile(count, [&](auto tile_rows, int r, int wanted) {
      change_tile<tile_rows>(out, pair, block, ranks + r * rank_stride, rank_stride, rows + r, wanted);
    });
}

}  // namespace hr
