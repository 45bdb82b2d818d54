// Adapters of outputs that are still a layer's fp32 sums: out = round(gain * (sums + bias) + b ranks + shift + residual), so that
// outputs are rounded and stored once. A block that a pair only adds to is one chain of dot products, which begins with
// sums + bias. Others are put together lane by lane, since a block of the layer may have parts of several pairs.
#pragma once

#include <algorithm>
#include <cstring>

#include "adapters/low_rank_expand.h"
#include "linear/linear_output.h"

namespace hr {

// The sums of a run of outputs, of some rows, in blocks of 16.
struct OutputSums {
  const float* data;  // of row first_row of the layer
  int64_t row_stride, block_stride;
  int64_t first_row;
  int64_t column;  // of the layer, whose sums come first
  int outputs;
  const float* bias;  // of the outputs, or null

  // index: of an output, the first of its block
  HR_INLINE const float* at(int64_t row, int64_t index) const {
    return data + (row - first_row) * row_stride + index / kBlockRows * block_stride;
  }
};

template <class Element>
struct SummedOutputs {
  Output out;
  OutputSums sums;

  template <int R, int C>
  HR_INLINE void load(const int32_t* rows, int count, int64_t column, F32x16 (&tile)[R][C]) const {
    const int64_t index = column - sums.column;
    F32x16 bias[C] = {};
    if (sums.bias)
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) bias[c] = hr::load<F32x16>(sums.bias + index + c * kBlockRows);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const float* row = sums.at(rows[std::min(r, count - 1)], index);
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) tile[r][c] = hr::load<F32x16>(row + c * sums.block_stride) + bias[c];
    }
  }

  template <int R, int C>
  HR_INLINE void put(const int32_t* rows, int count, int64_t column, F32x16 (&tile)[R][C]) const {
    if (out.residual)
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Element* residual =
            static_cast<const Element*>(out.residual) + rows[std::min(r, count - 1)] * out.residual_stride + column;
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) tile[r][c] = tile[r][c] + load_lanes(residual + c * kBlockRows);
      }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
      if (r < count)
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c)
          store_lanes(static_cast<Element*>(out.data) + rows[r] * out.stride + column + c * kBlockRows, tile[r][c]);
  }
};

// The pair that adds to all outputs column .. column + 15 in a block of its own, and changes them in no other way; or null.
inline const hr_low_rank_pair* adding_pair(const hr_layer_adapter& adapter, int64_t column) {
  for (int p = 0; p < adapter.num_pairs; ++p) {
    const hr_low_rank_pair& pair = adapter.pairs[p];
    const int64_t first = column - pair.first;
    if (0 <= first && first + kBlockRows <= pair.rows && first % kBlockRows == 0 && !pair.gain && !pair.shift) return &pair;
  }
  return nullptr;
}

// f(pair, first output, end) for what pairs have of the layer's outputs column .. column + outputs - 1, in runs that lie within one
// of the pair's blocks
template <class Function>
void for_each_part_within(const hr_layer_adapter& adapter, int64_t column, int outputs, const Function& f) {
  for_each_pair_within(adapter, column, outputs, [&](const hr_low_rank_pair& pair, int64_t first_block, int64_t end_block) {
    for (int64_t block = first_block; block < end_block; ++block) {
      const int64_t first = block * kBlockRows, end = std::min<int64_t>(first + kBlockRows, pair.rows);
      f(pair, std::max(first, column - pair.first), std::min(end, column + outputs - pair.first));
    }
  });
}

// Outputs index .. index + num_outputs - 1 of the sums, at most a block, whatever the adapter does to them, in a tile of rows.
// ranks [R][rank_stride]: of rows[0 .. count - 1], and more that do not matter.
template <int R>
__attribute__((noinline)) void change_block(const Output& out, const OutputSums& sums, int index, int num_outputs,
                                            const hr_layer_adapter& adapter, const Bf16* ranks, int64_t rank_stride,
                                            const int32_t* rows, int count) {
  const int64_t column = sums.column + index;
  float bias[kBlockRows] = {}, gain[kBlockRows], shift[kBlockRows] = {}, products[R][kBlockRows] = {};
  if (sums.bias) std::memcpy(bias, sums.bias + index, num_outputs * sizeof(float));
  std::fill(gain, gain + kBlockRows, 1.0f);
  for_each_part_within(adapter, column, num_outputs, [&](const hr_low_rank_pair& pair, int64_t first, int64_t end) {
    const int64_t place = pair.first + first - column, bytes = (end - first) * sizeof(float);
    F32x16 tile[R][1] = {};
    multiply_add<R, 1>(pair.b + first / kBlockRows * low_rank_bytes(pair.rank), 0, ranks + pair.first_rank, rank_stride,
                       pair.rank / 2, tile);
    for (int r = 0; r < R; ++r) {
      float lanes[kBlockRows];
      store(lanes, tile[r][0]);
      std::memcpy(products[r] + place, lanes + first % kBlockRows, bytes);
    }
    if (pair.gain) std::memcpy(gain + place, pair.gain + first, bytes);
    if (pair.shift) std::memcpy(shift + place, pair.shift + first, bytes);
  });
  for (int r = 0; r < count; ++r) {
    const F32x16 before = load<F32x16>(sums.at(rows[r], index)) + load<F32x16>(bias);
    const F32x16 after = fma(before, load<F32x16>(gain), load<F32x16>(products[r])) + load<F32x16>(shift);
    out.put(rows[r], column, num_outputs, after, nullptr);
  }
}

// All outputs of the sums, of rows[0 .. count - 1], which have this adapter. ranks [count + kSpareRows][rank_stride]: of these
// rows; what is in the spare ones does not matter.
template <class Element>
void put_adapted_as(const Output& out, const OutputSums& sums, const hr_layer_adapter& adapter, const Bf16* ranks,
                    int64_t rank_stride, const int32_t* rows, int count) {
  for (int index = 0; index < sums.outputs;) {
    const int left = sums.outputs - index;
    const hr_low_rank_pair* pair = left < kBlockRows ? nullptr : adding_pair(adapter, sums.column + index);
    if (pair) {
      const int64_t first = sums.column + index - pair->first;
      const int64_t blocks = std::min<int64_t>(left, pair->rows - first) / kBlockRows;
      add_blocks(SummedOutputs<Element>{out, sums}, *pair, first / kBlockRows, first / kBlockRows + blocks,
                 ranks + pair->first_rank, rank_stride, rows, count);
      index += static_cast<int>(blocks * kBlockRows);
    } else {
      const int num_outputs = std::min(left, kBlockRows);
      for_each_row_tile(count, [&](auto tile_rows, int r, int wanted) {
        change_block<tile_rows>(out, sums, index, num_outputs, adapter, ranks + r * rank_stride, rank_stride, rows + r, wanted);
      });
      index += num_outputs;
    }
  }
}

inline void put_adapted(const Output& out, const OutputSums& sums, const hr_layer_adapter& adapter, const Bf16* ranks,
                        int64_t rank_stride, const int32_t* rows, int count) {
  const auto put = out.is_bf16 ? put_adapted_as<Bf16> : put_adapted_as<float>;
  put(out, sums, adapter, ranks, rank_stride, rows, count);
}

}  // namespace hr
