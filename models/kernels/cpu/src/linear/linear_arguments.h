// The arguments that the linear kernels have in common, as parameters and as what is passed on. They are flat and not a struct
// because a tape records a call's arguments as words (replay.h).
#pragma once

#include <cstdint>

#include "linear/segments.h"

// The rows: x [M, K] (2K for gated inputs), bf16 or fp32, x_stride in elements. input_kind: InputKind, with its weight, bias and
// epsilon.
#define HR_INPUT_PARAMETERS                                                                                       \
  const void* x, int x_is_bf16, int64_t x_stride, int64_t num_rows, int64_t columns, int input_kind,              \
      const float* input_weight, const float* input_bias, float eps

#define HR_INPUT_ARGUMENTS x, x_is_bf16, x_stride, num_rows, columns, input_kind, input_weight, input_bias, eps

// The rows, the layer's matrices side by side, and out [M, sum of the segments' rows], bf16 or fp32, strides in elements.
// residual: null, or [M, N] of out's type, added.
#define HR_LINEAR_PARAMETERS                                                                                      \
  HR_INPUT_PARAMETERS, const hr_segment* segments, int num_segments, void* out, int out_is_bf16,                  \
      int64_t out_stride, const void* residual, int64_t residual_stride

#define HR_LINEAR_ARGUMENTS \
  HR_INPUT_ARGUMENTS, segments, num_segments, out, out_is_bf16, out_stride, residual, residual_stride
