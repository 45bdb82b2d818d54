// Products of small matrices, and arithmetic without subnormal numbers, for recurrences.
#pragma once

#include "simd/simd.h"

namespace hr {

// Takes subnormal numbers for zeros in this thread while it lives. States that decay pass through them, and x86 takes a hundred
// times as long for a product with one.
class WithoutSubnormals {
 public:
#if defined(__SSE2__)
  WithoutSubnormals() : before_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(before_ | 0x8040); }  // FTZ, DAZ
  ~WithoutSubnormals() { __builtin_ia32_ldmxcsr(before_); }

 private:
  unsigned before_;
#elif defined(__aarch64__)
  WithoutSubnormals() {
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    asm volatile("msr fpcr, %0" : : "r"(before_ | 1u << 24));  // FZ
  }
  ~WithoutSubnormals() { asm volatile("msr fpcr, %0" : : "r"(before_)); }

 private:
  uint64_t before_;
#endif
};

// 16 * kVectors columns of kRows rows: out_r += sum over i < count of left[r][i] * right[i]. The loops are unrolled by hand: GCC
// leaves them as they are at -O2, and out in memory.
template <int kRows, int kVectors>
HR_INLINE void add_products(const float* left, int64_t left_stride, const float* right, int64_t right_stride, int64_t count,
                            F32x16 (&out)[kRows][kVectors]) {
  for (int64_t i = 0; i < count; ++i) {
    F32x16 v[kVectors];
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) v[n] = load<F32x16>(right + i * right_stride + 16 * n);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const F32x16 l = broadcast(left[r * left_stride + i]);
#pragma GCC unroll 8
      for (int n = 0; n < kVectors; ++n) out[r][n] = fma(l, v[n], out[r][n]);
    }
  }
}

inline float dot(const float* a, const float* b, int64_t size) {
  F32x16 sum = broadcast(0.0f);
  for (int64_t i = 0; i < size; i += 16) sum = fma(load<F32x16>(a + i), load<F32x16>(b + i), sum);
  return sum_lanes(sum);
}

// to = a * b
inline void multiply(const float* a, const float* b, int64_t size, float* to) {
  for (int64_t i = 0; i < size; i += 16) store(to + i, load<F32x16>(a + i) * load<F32x16>(b + i));
}

template <int kRows>
HR_INLINE void read_block(const float* left, int64_t K, const float* from, int64_t V, F32x16* out) {
  F32x16 sums[kRows][1];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) sums[r][0] = broadcast(0.0f);
  if (from) add_products<kRows>(left, K, from, V, K, sums);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) out[r] = sums[r][0];
}

// Sixteen columns of what `count` rows [K] read from a matrix of K rows with V columns (null: zeros), to out [count].
inline void read_rows(const float* left, int64_t count, int64_t K, const float* from, int64_t V, F32x16* out) {
  int64_t row = 0;
  for (; row + 8 <= count; row += 8) read_block<8>(left + row * K, K, from, V, out + row);
  for (; row + 4 <= count; row += 4) read_block<4>(left + row * K, K, from, V, out + row);
  for (; row < count; ++row) read_block<1>(left + row * K, K, from, V, out + row);
}

}  // namespace hr
