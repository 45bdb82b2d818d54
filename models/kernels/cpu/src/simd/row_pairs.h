// Two rows at a time on ARM64 with I8MM and BF16: one instruction multiplies eight bytes (or four numbers of bf16) of two outputs by
// those of two rows, and adds the products to a register [2 outputs][2 rows].
#pragma once

#include "simd/simd.h"

namespace hr {

#if defined(__ARM_FEATURE_MATMUL_INT8) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define HR_ROW_PAIRS 1

// Sums of two rows and 16 outputs. Vector: F32x16 or I32x16.
template <class Vector>
struct RowPair {
  decltype(Vector::r[0] + Vector::r[0]) r[2 * kRegisters];

  HR_INLINE RowPair() : r{} {}

  HR_INLINE RowPair(const Vector& first, const Vector& second) {
    HR_EACH(const uint32x4_t a = (uint32x4_t)first.r[i]; const uint32x4_t b = (uint32x4_t)second.r[i];
            r[2 * i] = (decltype(r[0] + r[0]))vzip1q_u32(a, b); r[2 * i + 1] = (decltype(r[0] + r[0]))vzip2q_u32(a, b))
  }

  HR_INLINE void split(Vector& first, Vector& second) const {
    HR_EACH(const uint32x4_t a = (uint32x4_t)r[2 * i]; const uint32x4_t b = (uint32x4_t)r[2 * i + 1];
            first.r[i] = (decltype(r[0] + r[0]))vuzp1q_u32(a, b); second.r[i] = (decltype(r[0] + r[0]))vuzp2q_u32(a, b))
  }
};

// Eight bytes of each of two rows.
HR_INLINE uint8x16_t load_pair(const void* first, const void* second) {
  return vcombine_u8(vld1_u8(static_cast<const uint8_t*>(first)), vld1_u8(static_cast<const uint8_t*>(second)));
}

// Two vectors of four bytes of 16 outputs as registers of eight bytes of two outputs.
HR_INLINE RowPair<Bits> output_pairs(const void* vectors) {
  return {load<Bits>(vectors), load<Bits>(static_cast<const char*>(vectors) + 64)};
}
#else
#define HR_ROW_PAIRS 0
#endif

}  // namespace hr
