// Products of small matrices, for chunks of rows of recurrences.
#pragma once

#include "simd/simd.h"

namespace hr {

// Sixteen columns of kRows rows: out_r += sum over i < count of left[r][i] * right[i]
template <int kRows>
HR_INLINE void add_products(const float* left, int64_t left_stride, const float* right, int64_t right_stride, int64_t count,
                            F32x16 (&out)[kRows]) {
  for (int64_t i = 0; i < count; ++i) {
    const F32x16 v = load<F32x16>(right + i * right_stride);
    for (int r = 0; r < kRows; ++r) out[r] = fma(broadcast(left[r * left_stride + i]), v, out[r]);
  }
}

}  // namespace hr
