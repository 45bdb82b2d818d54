// One call of a linear layer: its input rows, its matrices side by side, and where results go.
#pragma once

#include <cstdint>

#include "linear/linear_arguments.h"
#include "linear/linear_output.h"
#include "linear/row_input.h"
#include "linear/segments.h"

namespace hr {

struct LinearLayer {
  const void* x;  // [M, K], 2K for gated inputs: bf16 or fp32
  int64_t x_stride;
  bool x_is_bf16;
  InputSpec input;
  int64_t num_rows, columns;  // M, K
  const hr_segment* segments;
  int num_segments;
  Output out;

  const void* input_row(int64_t row) const { return static_cast<const char*>(x) + row * x_stride * (x_is_bf16 ? 2 : 4); }

  // prepared [K] fp32 = row `row` after its norm or activation
  void prepare(int64_t row, float* prepared) const {
    if (x_is_bf16)
      prepare_row(input, static_cast<const Bf16*>(input_row(row)), columns, prepared);
    else
      prepare_row(input, static_cast<const float*>(input_row(row)), columns, prepared);
  }
};

// The layer that a kernel was called for.
inline LinearLayer linear_layer(HR_LINEAR_PARAMETERS) {
  return {x,
          x_stride,
          x_is_bf16 != 0,
          {static_cast<InputKind>(input_kind), input_weight, input_bias, eps},
          num_rows,
          columns,
          segments,
          num_segments,
          {out, out_stride, residual, residual_stride, out_is_bf16 != 0}};
}

// A panel's sums, of two row blocks, go to the output.
inline void put_panel(const LinearLayer& layer, const BlockPlace& place, int64_t first_row, int num_rows,
               const float (*sums)[2 * kBlockRows]) {
  for (int r = 0; r < num_rows; ++r)
    for (int c = 0; c < place.outputs; c += kBlockRows)
      layer.out.put(first_row + r, place.column + c, std::min(kBlockRows, place.outputs - c), load<F32x16>(sums[r] + c),
                    place.bias ? place.bias + c : nullptr);
}

}  // namespace hr
