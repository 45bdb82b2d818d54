// Entry points of the linear kernels, for kernels that call them. What they take is said where they are defined.
#pragma once

#include "adapters/low_rank.h"
#include "linear/segments.h"

HR_API void hr_quantized_linear(const void* x, int x_is_bf16, int64_t x_stride, int64_t num_rows, int64_t columns, int input_kind,
                                const float* input_weight, const float* input_bias, float eps, const hr_segment* segments,
                                int num_segments, void* out, int out_is_bf16, int64_t out_stride, const void* residual,
                                int64_t residual_stride);

HR_API void hr_bf16_linear(const void* x, int x_is_bf16, int64_t x_stride, int64_t num_rows, int64_t columns, int input_kind,
                           const float* input_weight, const float* input_bias, float eps, const hr_segment* segments,
                           int num_segments, void* out, int out_is_bf16, int64_t out_stride, const void* residual,
                           int64_t residual_stride);

HR_API void hr_scaled_linear(const void* x, int x_is_bf16, int64_t x_stride, int64_t num_rows, int64_t columns, int input_kind,
                             const float* input_weight, const float* input_bias, float eps, const hr_segment* segments,
                             int num_segments, void* out, int out_is_bf16, int64_t out_stride, const void* residual,
                             int64_t residual_stride, const int32_t* permutation, int rounding, float input_scale);

HR_API void hr_adapt_rows(const void* x, int x_is_bf16, int64_t x_stride, int64_t num_rows, int64_t columns, int input_kind,
                          const float* input_weight, const float* input_bias, float eps, const hr_layer_adapter* table,
                          const int32_t* slots, void* out, int out_is_bf16, int64_t out_stride);
