// Vector operations that only scaled codes (scaled_codes.h) need: table look-ups and 8-bit floats.
#pragma once

#include "simd/simd.h"

namespace hr {

// table[byte] for each of the 64 bytes, which are below 16
HR_INLINE Bits look_up_bytes(const uint8_t* table, const Bits& bytes) {
#if defined(__AVX512BW__)
  const __m512i entries = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
  return Bits{{(NativeU)_mm512_shuffle_epi8(entries, (__m512i)bytes.r[0])}};
#elif defined(__AVX2__)
  const __m256i entries = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
  Bits out;
  HR_EACH(out.r[i] = (NativeU)_mm256_shuffle_epi8(entries, (__m256i)bytes.r[i]))
  return out;
#elif defined(__aarch64__)
  Bits out;
  HR_EACH(out.r[i] = (NativeU)vqtbl1q_u8(vld1q_u8(table), (uint8x16_t)bytes.r[i]))
  return out;
#else
  uint8_t lanes[64];
  store(lanes, bytes);
  for (int i = 0; i < 64; ++i) lanes[i] = table[lanes[i]];
  return load<Bits>(lanes);
#endif
}

// table[low 4 bits] for each of the 16 lanes
HR_INLINE F32x16 look_up_floats(const float* table, const Bits& lanes) {
#if defined(__AVX512F__)
  return F32x16{{(NativeF)_mm512_permutexvar_ps((__m512i)lanes.r[0], _mm512_load_ps(table))}};
#else
  uint32_t index[16];
  float out[16];
  store(index, lanes);
  for (int i = 0; i < 16; ++i) out[i] = table[index[i] & 15];
  return load<F32x16>(out);
#endif
}

constexpr float kFp8Factor = 256;

// Twice 16 numbers in E4M3, which has neither infinities nor, here, NaN, over kFp8Factor: what their bits are in place of those
// of fp16, whose exponents are 8 higher.
HR_INLINE void load_fp8(const uint8_t* p, F32x16* out) {
#if defined(__AVX512BW__)
  // the sign-extended byte moved up has the sign in bits 15 and 14, and the rest where it belongs
  const __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  const __m512i half = _mm512_and_si512(_mm512_slli_epi16(wide, 7), _mm512_set1_epi16(static_cast<int16_t>(0xbfff)));
  out[0].r[0] = (NativeF)_mm512_cvtph_ps(_mm512_castsi512_si256(half));
  out[1].r[0] = (NativeF)_mm512_cvtph_ps(_mm512_extracti64x4_epi64(half, 1));
#else
  uint16_t bits[32];
  for (int i = 0; i < 32; ++i) bits[i] = static_cast<uint16_t>((p[i] & 0x80) << 8 | (p[i] & 0x7f) << 7);
  out[0] = load_half(bits);
  out[1] = load_half(bits + 16);
#endif
}

// v rounded to E4M3, ties to even; beyond 448 it is 448
HR_INLINE F32x16 round_fp8(const F32x16& v) {
  const F32x16 size = clamp(abs(v), 0.0f, 448.0f);
  // 2^20 times a number's power of two has an ulp of 1/8 of it: what a mantissa of 3 bits is rounded to; below 2^-6 that
  // of subnormals
  const F32x16 power = max(floats_of(bits_of(size) & broadcast(0x7f800000u)), broadcast(0.015625f));
  const F32x16 magic = power * broadcast(1048576.0f);
  const F32x16 rounded = (size + magic) - magic;
  return floats_of(bits_of(rounded) | (bits_of(v) & broadcast(0x80000000u)));
}

// nearest integers of v, which is small, as floats
HR_INLINE F32x16 round_lanes(const F32x16& v) {
#if defined(__AVX512F__)
  return F32x16{{(NativeF)_mm512_roundscale_ps((__m512)v.r[0], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}};
#elif defined(__AVX2__)
  F32x16 out;
  HR_EACH(out.r[i] = (NativeF)_mm256_round_ps((__m256)v.r[i], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
  return out;
#else
  float lanes[16];
  store(lanes, v);
  for (int i = 0; i < 16; ++i) lanes[i] = std::nearbyint(lanes[i]);
  return load<F32x16>(lanes);
#endif
}

}  // namespace hr
