// Adapters of a linear layer in memory (Hu et al. 2021): outputs become gain * out + b (a input(x)) + shift.
//
// a and b are packed as weights in dense_weights.cpp, in blocks of 16 ranks and of 16 outputs, and the pairs of a layer (of q, k
// and v) share the blocks of a. x, a, b and the product in between, of `rank` columns, are bf16; sums are fp32.
//
// A row's results are the same whatever other rows there are: low_rank_shrink.h and low_rank_expand.h say in which order terms
// are added. Of the two kernels, quantized_linear.cpp adds to a layer's fp32 sums, and adapt_rows.cpp to outputs that are rounded;
// the latter computes gated SiLU as exactly as bf16 can tell, too. A layer has one of them. But with AMX, which has no fused call
// for many rows, a row may differ by a rounding to bf16 alone and in a batch.
#pragma once

#include <cstdint>

#include "linear/linear_arguments.h"
#include "linear/segments.h"

// A pair: the outputs first .. first + rows - 1. Ranks are even, padded with zeros.
struct hr_low_rank_pair {
  const uint8_t* b;           // [blocks of outputs][rank / 2][16][2]
  const float *gain, *shift;  // [blocks of outputs * 16], or null
  int32_t first, rows;
  int32_t first_rank, rank;  // of the layer's ranks
};

struct hr_layer_adapter {
  const uint8_t* a;  // [blocks of ranks][K / 2][16][2]; null: this adapter does not change the layer
  const hr_low_rank_pair* pairs;
  int32_t num_pairs, num_blocks;  // blocks of ranks
};

// In a call of its own, after the layer's (adapt_rows.cpp).
HR_API void hr_adapt_rows(HR_INPUT_PARAMETERS, const hr_layer_adapter* table, const int32_t* slots, void* out, int out_is_bf16,
                          int64_t out_stride);

namespace hr {

inline int64_t low_rank_bytes(int64_t columns) { return columns * kBlockRows * 2; }  // of a block

inline int64_t num_output_blocks(const hr_low_rank_pair& pair) { return (pair.rows + kBlockRows - 1) / kBlockRows; }

// f(pair, first block, end block) for the blocks of outputs that lie within the layer's outputs column .. column + outputs - 1.
template <class Function>
void for_each_pair_within(const hr_layer_adapter& adapter, int64_t column, int64_t outputs, const Function& f) {
  for (int p = 0; p < adapter.num_pairs; ++p) {
    const hr_low_rank_pair& pair = adapter.pairs[p];
    const int64_t first = column > pair.first ? column - pair.first : 0;
    const int64_t end = column + outputs - pair.first < pair.rows ? column + outputs - pair.first : pair.rows;
    if (first < end) f(pair, first / kBlockRows, (end + kBlockRows - 1) / kBlockRows);
  }
}

}  // namespace hr
