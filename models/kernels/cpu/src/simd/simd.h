// Sixteen lanes of fp32 or int32 on any machine: one 512-bit register with AVX-512, two of AVX2, four of SSE or NEON.
//
// Every kernel is written once against these types. A vector is an array of native registers, and each operation is a
// loop over them that the compiler unrolls; only what the instruction sets do differently (dot products of bf16 and
// of bytes, conversions, 2^x) is spelled out per instruction set below.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define HR_INLINE inline __attribute__((always_inline))
#define HR_API extern "C" __attribute__((visibility("default")))

namespace hr {

#if defined(__AVX512F__)
constexpr int kNativeBytes = 64;
#elif defined(__AVX2__)
constexpr int kNativeBytes = 32;
#else
constexpr int kNativeBytes = 16;
#endif
constexpr int kRegisters = 64 / kNativeBytes;      // native registers in one sixteen-lane vector
constexpr int kNativeLanes = kNativeBytes / 4;

typedef float NativeF __attribute__((vector_size(kNativeBytes)));
typedef int32_t NativeI __attribute__((vector_size(kNativeBytes)));
typedef uint32_t NativeU __attribute__((vector_size(kNativeBytes)));

struct F32x16 {
  NativeF r[kRegisters];
};
struct I32x16 {
  NativeI r[kRegisters];
};
// 64 bytes without a type: sixteen lanes of 4 uint8, of 2 bf16, or of a mask.
struct Bits {
  NativeU r[kRegisters];
};

#define HR_EACH(expression)               \
  _Pragma("GCC unroll 4")                 \
  for (int i = 0; i < kRegisters; ++i) {  \
    expression;                           \
  }

// ---- load, store, broadcast

template <class Vector>
HR_INLINE Vector load(const void* source) {
  Vector v;
  HR_EACH(std::memcpy(&v.r[i], static_cast<const char*>(source) + i * kNativeBytes, kNativeBytes))
  return v;
}

template <class Vector>
HR_INLINE void store(void* target, const Vector& v) {
  HR_EACH(std::memcpy(static_cast<char*>(target) + i * kNativeBytes, &v.r[i], kNativeBytes))
}

HR_INLINE F32x16 broadcast(float x) {
  F32x16 v;
  HR_EACH(v.r[i] = x - NativeF{})  // x - 0 and not x + 0: keeps the sign of -0
  return v;
}

HR_INLINE I32x16 broadcast(int32_t x) {
  I32x16 v;
  HR_EACH(v.r[i] = x + NativeI{})
  return v;
}

HR_INLINE Bits broadcast(uint32_t x) {
  Bits v;
  HR_EACH(v.r[i] = x + NativeU{})
  return v;
}

HR_INLINE uint32_t load_u32(const void* source) {
  uint32_t x;
  std::memcpy(&x, source, 4);
  return x;
}

// ---- arithmetic

HR_INLINE F32x16 operator+(F32x16 a, const F32x16& b) { HR_EACH(a.r[i] += b.r[i]) return a; }
HR_INLINE F32x16 operator-(F32x16 a, const F32x16& b) { HR_EACH(a.r[i] -= b.r[i]) return a; }
HR_INLINE F32x16 operator*(F32x16 a, const F32x16& b) { HR_EACH(a.r[i] *= b.r[i]) return a; }
HR_INLINE F32x16 operator/(F32x16 a, const F32x16& b) { HR_EACH(a.r[i] /= b.r[i]) return a; }
HR_INLINE I32x16 operator+(I32x16 a, const I32x16& b) { HR_EACH(a.r[i] += b.r[i]) return a; }
HR_INLINE I32x16 operator*(I32x16 a, int b) { HR_EACH(a.r[i] *= b) return a; }
HR_INLINE Bits operator&(Bits a, const Bits& b) { HR_EACH(a.r[i] &= b.r[i]) return a; }
HR_INLINE Bits operator|(Bits a, const Bits& b) { HR_EACH(a.r[i] |= b.r[i]) return a; }
template <int kShift>
HR_INLINE Bits shift_left(Bits a) { HR_EACH(a.r[i] <<= kShift) return a; }
HR_INLINE I32x16 shift_left(I32x16 a, int bits) { HR_EACH(a.r[i] <<= bits) return a; }
template <int kShift>
HR_INLINE Bits shift_right(Bits a) { HR_EACH(a.r[i] >>= kShift) return a; }

// b where either is NaN or both are zeros; so is min. GCC makes a comparison and a masked move of the expression with AVX-512.
HR_INLINE F32x16 max(F32x16 a, const F32x16& b) {
#if defined(__AVX512F__)
  a.r[0] = (NativeF)_mm512_max_ps((__m512)a.r[0], (__m512)b.r[0]);
#else
  HR_EACH(a.r[i] = a.r[i] > b.r[i] ? a.r[i] : b.r[i])
#endif
  return a;
}

HR_INLINE I32x16 max(I32x16 a, const I32x16& b) {
  HR_EACH(a.r[i] = a.r[i] > b.r[i] ? a.r[i] : b.r[i])
  return a;
}

HR_INLINE F32x16 min(F32x16 a, const F32x16& b) {
#if defined(__AVX512F__)
  a.r[0] = (NativeF)_mm512_min_ps((__m512)a.r[0], (__m512)b.r[0]);
#else
  HR_EACH(a.r[i] = a.r[i] < b.r[i] ? a.r[i] : b.r[i])
#endif
  return a;
}

// NaN stays NaN
// y, or x where that is NaN
HR_INLINE F32x16 nan_of(const F32x16& x, F32x16 y) {
  HR_EACH(y.r[i] = x.r[i] == x.r[i] ? y.r[i] : x.r[i])
  return y;
}

HR_INLINE F32x16 clamp(const F32x16& a, float low, float high) { return min(broadcast(high), max(broadcast(low), a)); }

// a * b + c, rounded once where the machine has an instruction for it. Contraction of a product and a sum would not do: the
// compiler leaves them apart where they end up in different blocks, and two kernels for the same numbers would differ.
HR_INLINE F32x16 fma(const F32x16& a, const F32x16& b, F32x16 c) {
#if defined(__AVX512F__)
  c.r[0] = (NativeF)_mm512_fmadd_ps((__m512)a.r[0], (__m512)b.r[0], (__m512)c.r[0]);
#elif defined(__FMA__)
  HR_EACH(c.r[i] = (NativeF)_mm256_fmadd_ps((__m256)a.r[i], (__m256)b.r[i], (__m256)c.r[i]))
#elif defined(__aarch64__)
  HR_EACH(c.r[i] = (NativeF)vfmaq_f32((float32x4_t)c.r[i], (float32x4_t)a.r[i], (float32x4_t)b.r[i]))
#else
  HR_EACH(c.r[i] = a.r[i] * b.r[i] + c.r[i])
#endif
  return c;
}

HR_INLINE Bits bits_of(const F32x16& a) { Bits v; HR_EACH(v.r[i] = (NativeU)a.r[i]) return v; }
HR_INLINE F32x16 floats_of(const Bits& a) { F32x16 v; HR_EACH(v.r[i] = (NativeF)a.r[i]) return v; }
HR_INLINE I32x16 integers_of(const Bits& a) { I32x16 v; HR_EACH(v.r[i] = (NativeI)a.r[i]) return v; }
HR_INLINE F32x16 to_float(const I32x16& a) { F32x16 v; HR_EACH(v.r[i] = __builtin_convertvector(a.r[i], NativeF)) return v; }

// |a| as integers that have the same order, above which are those of NaN.
HR_INLINE I32x16 magnitude_bits(const F32x16& a) { return integers_of(bits_of(a) & broadcast(0x7fffffffu)); }
HR_INLINE float float_of_bits(int32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// lanes first..end-1 of `a`, elsewhere `other`
HR_INLINE F32x16 keep_lanes(F32x16 a, int first, int end, float other) {
  static constexpr int32_t kLane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const I32x16 lane = load<I32x16>(kLane);
  const F32x16 fill = broadcast(other);
  HR_EACH(a.r[i] = ((lane.r[i] >= first) & (lane.r[i] < end)) ? a.r[i] : fill.r[i])
  return a;
}

HR_INLINE float sum_lanes(const F32x16& a) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)a.r[0]);
#else
  NativeF s = a.r[0];
  for (int i = 1; i < kRegisters; ++i) s += a.r[i];
  float total = 0;
  for (int i = 0; i < kNativeLanes; ++i) total += s[i];
  return total;
#endif
}

HR_INLINE int32_t sum_lanes(const I32x16& v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_epi32((__m512i)v.r[0]);
#else
  int32_t lanes[16], sum = 0;
  store(lanes, v);
  for (int i = 0; i < 16; ++i) sum += lanes[i];
  return sum;
#endif
}

HR_INLINE int32_t max_lanes(const I32x16& v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_epi32((__m512i)v.r[0]);
#else
  int32_t lanes[16];
  store(lanes, v);
  int32_t best = lanes[0];
  for (int i = 1; i < 16; ++i) best = best > lanes[i] ? best : lanes[i];
  return best;
#endif
}

HR_INLINE float max_lanes(const F32x16& a) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)a.r[0]);
#else
  NativeF s = a.r[0];
  for (int i = 1; i < kRegisters; ++i) s = s > a.r[i] ? s : a.r[i];
  float best = s[0];
  for (int i = 1; i < kNativeLanes; ++i) best = best > s[i] ? best : s[i];
  return best;
#endif
}

HR_INLINE F32x16 abs(const F32x16& a) { return floats_of(bits_of(a) & broadcast(0x7fffffffu)); }

// 2^x, relative error below 3e-7, for x at most 127; x below -126, -inf too, gives 0. Not for NaN.
HR_INLINE F32x16 exp2(F32x16 x) {
  x = max(x, broadcast(-160.0f));
  F32x16 whole;
#if defined(__AVX512F__)
  whole.r[0] = (NativeF)_mm512_roundscale_ps((__m512)x.r[0], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  // adding 1.5 * 2^23 leaves the nearest integer in the low bits of the mantissa
  const F32x16 magic = broadcast(12582912.0f);
  whole = x + magic;
  asm("" : "+m"(whole));  // or the compiler may cancel the two additions
  whole = whole - magic;
#endif
  const F32x16 f = x - whole;  // in [-0.5, 0.5]
  F32x16 p = broadcast(1.5403530e-4f);
  p = fma(p, f, broadcast(1.3333558e-3f));
  p = fma(p, f, broadcast(9.6181291e-3f));
  p = fma(p, f, broadcast(5.5504109e-2f));
  p = fma(p, f, broadcast(2.4022651e-1f));
  p = fma(p, f, broadcast(6.9314718e-1f));
  p = fma(p, f, broadcast(1.0f));
#if defined(__AVX512F__)
  const __mmask16 normal = _mm512_cmp_ps_mask((__m512)x.r[0], _mm512_set1_ps(-126.0f), _CMP_GE_OQ);
  p.r[0] = (NativeF)_mm512_maskz_scalef_ps(normal, (__m512)p.r[0], (__m512)whole.r[0]);
#else
  HR_EACH(const NativeI exponent = __builtin_convertvector(whole.r[i], NativeI);
          const NativeI scaled = (NativeI)p.r[i] + (exponent << 23);
          p.r[i] = exponent > -127 ? (NativeF)scaled : NativeF{})
#endif
  return p;
}

// The same for what is rounded to bf16: relative error below 8e-5, not below 2^-126, which -inf gives, too.
HR_INLINE F32x16 exp2_for_bf16(F32x16 x) {
  x = max(x, broadcast(-126.0f));
  const F32x16 magic = broadcast(12582912.0f), shifted = x + magic;  // 1.5 * 2^23: the low bits are the nearest integer
  const F32x16 f = x - (shifted - magic);
  F32x16 p = fma(broadcast(0.0551716685f), f, broadcast(0.24261114f));
  p = fma(p, f, broadcast(0.69326097f));
  p = fma(p, f, broadcast(0.99992806f));
  HR_EACH(p.r[i] = (NativeF)((NativeI)p.r[i] + ((NativeI)shifted.r[i] << 23)))
  return p;
}

// 1 / x for what is rounded to bf16: relative error below 7e-5
HR_INLINE F32x16 reciprocal_for_bf16(const F32x16& x) {
#if defined(__AVX512F__)
  return F32x16{{(NativeF)_mm512_rcp14_ps((__m512)x.r[0])}};
#else
  return broadcast(1.0f) / x;
#endif
}

// ---- bf16 (the upper half of an fp32) and fp16 in memory

typedef uint16_t Bf16;

// Elements in a lane.
template <class Element>
constexpr int kPack = 4 / sizeof(Element);

HR_INLINE float to_float(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

// round to nearest even; NaN stays NaN
HR_INLINE Bf16 to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<Bf16>((bits >> 16) | 0x40);
  return static_cast<Bf16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

HR_INLINE F32x16 load_bf16(const Bf16* source) {
#if defined(__AVX512F__)
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
  return F32x16{{(NativeF)_mm512_slli_epi32(wide, 16)}};
#else
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = to_float(source[i]);
  return load<F32x16>(lanes);
#endif
}

HR_INLINE void store_bf16(Bf16* target, const F32x16& v) {
#if defined(__AVX512BF16__)
  const __m256bh half = _mm512_cvtneps_pbh((__m512)v.r[0]);
  std::memcpy(target, &half, 32);
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  HR_EACH(const bfloat16x4_t quarter = vcvt_bf16_f32((float32x4_t)v.r[i]); std::memcpy(target + 4 * i, &quarter, 8))
#else
  float lanes[16];
  store(lanes, v);
  for (int i = 0; i < 16; ++i) target[i] = to_bf16(lanes[i]);
#endif
}

HR_INLINE float half_to_float(uint16_t h) {
  // exponent and mantissa moved into place, then scaled by 2^112: exact, subnormals included
  const uint32_t shifted = static_cast<uint32_t>(h & 0x7fff) << 13;
  float f;
  std::memcpy(&f, &shifted, 4);
  f *= 5.192296858534828e33f;
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  if ((h & 0x7c00) == 0x7c00) bits = 0x7f800000u | shifted;
  bits |= static_cast<uint32_t>(h & 0x8000) << 16;
  std::memcpy(&f, &bits, 4);
  return f;
}

HR_INLINE F32x16 load_half(const uint16_t* source) {
#if defined(__AVX512F__)
  return F32x16{{(NativeF)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)))}};
#elif defined(__F16C__)
  F32x16 v;
  HR_EACH(v.r[i] = (NativeF)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source + 8 * i))))
  return v;
#elif defined(__aarch64__)
  F32x16 v;
  HR_EACH(v.r[i] = (NativeF)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(source + 4 * i))))
  return v;
#else
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = half_to_float(source[i]);
  return load<F32x16>(lanes);
#endif
}

// one type parameter for both kinds of activations
HR_INLINE F32x16 load_lanes(const float* source) { return load<F32x16>(source); }
HR_INLINE F32x16 load_lanes(const Bf16* source) { return load_bf16(source); }
HR_INLINE void store_lanes(float* target, const F32x16& v) { store(target, v); }
HR_INLINE void store_lanes(Bf16* target, const F32x16& v) { store_bf16(target, v); }
HR_INLINE float to_float(float x) { return x; }
HR_INLINE void store_one(float* target, float x) { *target = x; }
HR_INLINE void store_one(Bf16* target, float x) { *target = to_bf16(x); }

// nearest integers of v (within -127 .. 127) as 16 signed bytes
HR_INLINE void store_int8(int8_t* target, const F32x16& v) {
#if defined(__AVX512F__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32((__m512)v.r[0])));
#else
  float lanes[16];
  store(lanes, v);
  for (int i = 0; i < 16; ++i) target[i] = static_cast<int8_t>(std::nearbyint(lanes[i]));
#endif
}

// ---- dot products

// sum + a[0] * b[lane][0] + a[1] * b[lane][1]; `a` and each lane of `b` are pairs of bf16
HR_INLINE F32x16 dot_bf16(const F32x16& sum, uint32_t a, const Bits& b) {
#if defined(__AVX512BF16__)
  return F32x16{{(NativeF)_mm512_dpbf16_ps((__m512)sum.r[0], (__m512bh)_mm512_set1_epi32(static_cast<int>(a)),
                                           (__m512bh)b.r[0])}};
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  F32x16 v;
  HR_EACH(v.r[i] = (NativeF)vbfdotq_f32((float32x4_t)sum.r[i], (bfloat16x8_t)b.r[i], (bfloat16x8_t)vdupq_n_u32(a)))
  return v;
#else
  const F32x16 low = floats_of(shift_left<16>(b)), high = floats_of(b & broadcast(0xffff0000u));
  return fma(broadcast(to_float(static_cast<Bf16>(a >> 16))), high,
             fma(broadcast(to_float(static_cast<Bf16>(a & 0xffff))), low, sum));
#endif
}

// The same for fp32, where a lane holds one number.
HR_INLINE F32x16 dot_float(const F32x16& sum, uint32_t a, const Bits& b) {
  float x;
  std::memcpy(&x, &a, 4);
  return fma(broadcast(x), floats_of(b), sum);
}

// dot_bf16 or dot_float
template <class Element>
HR_INLINE F32x16 add_product(const F32x16& sum, uint32_t a, const Bits& b) {
  if constexpr (kPack<Element> == 2) return dot_bf16(sum, a, b);
  else return dot_float(sum, a, b);
}

// What dot_bytes() takes from each byte of w: where there are only products of signed bytes, the 128 that makes them so.
#if defined(__ARM_FEATURE_DOTPROD) && !defined(__ARM_FEATURE_MATMUL_INT8)
constexpr int kByteZero = 128;
#else
constexpr int kByteZero = 0;
#endif

// sum + sum over j < 4 of (uint8 w[lane][j] - kByteZero) * int8 a[j]; exact
HR_INLINE I32x16 dot_bytes(I32x16 sum, const Bits& w, uint32_t a) {
#if defined(__AVX512VNNI__)
  sum.r[0] = (NativeI)_mm512_dpbusd_epi32((__m512i)sum.r[0], (__m512i)w.r[0], _mm512_set1_epi32(static_cast<int>(a)));
  return sum;
#elif defined(__AVX512F__) && defined(__AVX512BW__)
  const __m512i a4 = _mm512_set1_epi32(static_cast<int>(a)), even = _mm512_set1_epi16(0xff);
  const __m512i low = _mm512_madd_epi16(_mm512_and_si512((__m512i)w.r[0], even), _mm512_srai_epi16(_mm512_slli_epi16(a4, 8), 8));
  const __m512i high = _mm512_madd_epi16(_mm512_srli_epi16((__m512i)w.r[0], 8), _mm512_srai_epi16(a4, 8));
  sum.r[0] += (NativeI)_mm512_add_epi32(low, high);
  return sum;
#elif defined(__AVX2__)
  // maddubs would saturate at 2 * 255 * 127, so bytes are widened to 16 bits, even and odd ones apart
  const __m256i a4 = _mm256_set1_epi32(static_cast<int>(a)), even = _mm256_set1_epi16(0xff);
  const __m256i a_even = _mm256_srai_epi16(_mm256_slli_epi16(a4, 8), 8), a_odd = _mm256_srai_epi16(a4, 8);
  HR_EACH(const __m256i low = _mm256_madd_epi16(_mm256_and_si256((__m256i)w.r[i], even), a_even);
          const __m256i high = _mm256_madd_epi16(_mm256_srli_epi16((__m256i)w.r[i], 8), a_odd);
          sum.r[i] += (NativeI)_mm256_add_epi32(low, high))
  return sum;
#elif defined(__ARM_FEATURE_MATMUL_INT8)
  HR_EACH(sum.r[i] = (NativeI)vusdotq_s32((int32x4_t)sum.r[i], (uint8x16_t)w.r[i], (int8x16_t)vdupq_n_u32(a)))
  return sum;
#elif defined(__ARM_FEATURE_DOTPROD)
  HR_EACH(sum.r[i] = (NativeI)vdotq_s32((int32x4_t)sum.r[i], (int8x16_t)(w.r[i] ^ 0x80808080u), (int8x16_t)vdupq_n_u32(a)))
  return sum;
#else
  for (int j = 0; j < 4; ++j) {
    const int32_t aj = static_cast<int8_t>(a >> (8 * j));
    HR_EACH(sum.r[i] += (NativeI)((w.r[i] >> (8 * j)) & 0xff) * aj)
  }
  return sum;
#endif
}

}  // namespace hr
