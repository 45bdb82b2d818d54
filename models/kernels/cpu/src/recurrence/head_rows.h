// Products of a head's rows with each other and with matrices, for chunks of rows of recurrences.
#pragma once

#include "simd/simd.h"

namespace hr {

inline float dot(const float* a, const float* b, int64_t size) {
  F32x16 sum = broadcast(0.0f);
  for (int64_t i = 0; i < size; i += 16) sum = fma(load<F32x16>(a + i), load<F32x16>(b + i), sum);
  return sum_lanes(sum);
}

// to = a * b
inline void multiply(const float* a, const float* b, int64_t size, float* to) {
  for (int64_t i = 0; i < size; i += 16) store(to + i, load<F32x16>(a + i) * load<F32x16>(b + i));
}

// Sixteen columns of kRows rows: out_r += sum over i < count of left[r][i] * right[i]
template <int kRows>
HR_INLINE void add_rows(const float* left, int64_t left_stride, const float* right, int64_t right_stride, int64_t count, F32x16* out) {
  F32x16 sums[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) sums[r] = out[r];
  for (int64_t i = 0; i < count; ++i) {
    const F32x16 v = load<F32x16>(right + i * right_stride);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) sums[r] = fma(broadcast(left[r * left_stride + i]), v, sums[r]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) out[r] = sums[r];
}

// Sixteen columns of what `count` rows [K] read from a matrix of K rows with V columns (null: zeros), to out [count].
inline void read_rows(const float* left, int64_t count, int64_t K, const float* from, int64_t V, F32x16* out) {
  for (int64_t row = 0; row < count; ++row) out[row] = broadcast(0.0f);
  if (!from) return;
  int64_t row = 0;
  for (; row + 8 <= count; row += 8) add_rows<8>(left + row * K, K, from, V, K, out + row);
  for (; row + 4 <= count; row += 4) add_rows<4>(left + row * K, K, from, V, K, out + row);
  for (; row < count; ++row) add_rows<1>(left + row * K, K, from, V, K, out + row);
}

}  // namespace hr
