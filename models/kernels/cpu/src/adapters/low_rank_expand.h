// The second half of an adapter: out = gain * out + b ranks + shift, where `out` is what the layer has computed, rounded to its
// type. A block's sum is one chain of dot products, which begins with `out` where it is only added to.
#pragma once

#include <algorithm>

#include "adapters/low_rank.h"
#include "adapters/low_rank_shrink.h"
#include "dense/dense_products.h"

namespace hr {

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

// ranks [R][rank_stride], of which `count` rows are wanted: rows[0 .. count - 1] of out.
template <class Element, int R, int C>
__attribute__((noinline)) void add_tile(const OutputRows& out, const hr_low_rank_pair& pair, int64_t block, const Bf16* ranks,
                                        int64_t rank_stride, const int32_t* rows, int count) {
  F32x16 tile[R][C];
  Element* targets[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    targets[r] = static_cast<Element*>(out.data) + rows[std::min(r, count - 1)] * out.stride + pair.first + block * kBlockRows;
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) tile[r][c] = load_lanes(targets[r] + c * kBlockRows);
  }
  const int64_t stride = low_rank_bytes(pair.rank);
  multiply_add<R, C>(pair.b + block * stride, stride, ranks, rank_stride, pair.rank / 2, tile);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    if (r >= count) break;
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) store_lanes(targets[r] + c * kBlockRows, tile[r][c]);
  }
}

// The same for outputs that are scaled or shifted, and for a ragged end.
template <class Element, int R>
__attribute__((noinline)) void change_tile(const OutputRows& out, const hr_low_rank_pair& pair, int64_t block, const Bf16* ranks,
                                           int64_t rank_stride, const int32_t* rows, int count) {
  F32x16 tile[R][1] = {};
  const int64_t stride = low_rank_bytes(pair.rank), output = block * kBlockRows;
  multiply_add<R, 1>(pair.b + block * stride, stride, ranks, rank_stride, pair.rank / 2, tile);
  const int num_outputs = static_cast<int>(std::min<int64_t>(kBlockRows, pair.rows - output));
  for (int r = 0; r < count; ++r)
    add_lanes(static_cast<Element*>(out.data) + rows[r] * out.stride + pair.first + output, num_outputs, tile[r][0],
              pair.gain ? pair.gain + output : nullptr, pair.shift ? pair.shift + output : nullptr);
}

template <class Element, int R>
void expand_tile(const OutputRows& out, const hr_low_rank_pair& pair, int64_t first_block, int64_t end_block, const Bf16* ranks,
                 int64_t rank_stride, const int32_t* rows, int count) {
  int64_t block = first_block;
  if (!pair.gain && !pair.shift) {
    const int64_t whole = std::min<int64_t>(end_block, pair.rows / kBlockRows);
    for (; block < whole; block += kSpan)
      with_blocks(whole - block, [&](auto blocks) {
        add_tile<Element, R, blocks>(out, pair, block, ranks, rank_stride, rows, count);
      });
    block = std::max(first_block, whole);
  }
  for (; block < end_block; ++block) change_tile<Element, R>(out, pair, block, ranks, rank_stride, rows, count);
}

template <class Element>
void expand_as(const OutputRows& out, const hr_low_rank_pair& pair, int64_t first_block, int64_t end_block, const Bf16* ranks,
               int64_t rank_stride, const int32_t* rows, int count) {
  for (int r = 0; r < count;) {
    const int left = count - r;
    const auto expand = left > 2 ? expand_tile<Element, kDenseTileRows> : left == 2 ? expand_tile<Element, 2> : expand_tile<Element, 1>;
    const int wanted = std::min(left, left > 2 ? kDenseTileRows : left);
    expand(out, pair, first_block, end_block, ranks + r * rank_stride, rank_stride, rows + r, wanted);
    r += wanted;
  }
}

// Blocks first_block .. end_block - 1 of the pair's outputs, of rows[0 .. count - 1]. ranks [count + kSpareRows][rank_stride]: of
// these rows, the pair's; what is in the spare ones does not matter.
inline void expand(const OutputRows& out, const hr_low_rank_pair& pair, int64_t first_block, int64_t end_block, const Bf16* ranks,
                   int64_t rank_stride, const int32_t* rows, int count) {
  const auto expand = out.is_bf16 ? expand_as<Bf16> : expand_as<float>;
  expand(out, pair, first_block, end_block, ranks, rank_stride, rows, count);
}

}  // namespace hr
