// Entry points of the linear kernels, for kernels that call them. What they take beside linear_arguments.h is said where they are
// defined.
#pragma once

#include "linear/linear_arguments.h"

HR_API void hr_quantized_linear(HR_LINEAR_PARAMETERS);

HR_API void hr_bf16_linear(HR_LINEAR_PARAMETERS);

HR_API void hr_scaled_linear(HR_LINEAR_PARAMETERS, const int32_t* permutation, int rounding, float input_scale);
