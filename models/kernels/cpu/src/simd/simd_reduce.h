// Reductions of many vectors at once: a tree over all of them takes a third of the instructions of one tree each.
#pragma once

#include "simd/simd.h"

namespace hr {

// lane i: the largest lane of v[i]
HR_INLINE F32x16 max_of_each(const F32x16 (&v)[16]) {
#if defined(__AVX512F__)
  // Each round merges pairs of vectors, and halves what is left of each of them.
  __m512 pairs[8], fours[4], eights[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const __m512 a = (__m512)v[2 * i].r[0], b = (__m512)v[2 * i + 1].r[0];
    pairs[i] = _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512d a = _mm512_castps_pd(pairs[2 * i]), b = _mm512_castps_pd(pairs[2 * i + 1]);
    fours[i] = _mm512_max_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    eights[i] = _mm512_max_ps(_mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], 0x88),
                              _mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], 0xdd));
  return F32x16{{(NativeF)_mm512_max_ps(_mm512_shuffle_f32x4(eights[0], eights[1], 0x88),
                                        _mm512_shuffle_f32x4(eights[0], eights[1], 0xdd))}};
#else
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = max_lanes(v[i]);
  return load<F32x16>(lanes);
#endif
}

// lane i: the lanes of v[i] added in the order of sum_lanes, so that the result is the very same
HR_INLINE F32x16 sum_of_each(const F32x16 (&v)[16]) {
#if defined(__AVX512F__)
  // Halves first, as there. v[i] is merged so that it ends in lane i: the last rounds put quads of four vectors side by side.
  __m512 quads[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    __m512 halves[2];
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m512 a = (__m512)v[i + 8 * j].r[0], b = (__m512)v[i + 8 * j + 4].r[0];
      halves[j] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    }
    quads[i] = _mm512_add_ps(_mm512_shuffle_f32x4(halves[0], halves[1], 0x88), _mm512_shuffle_f32x4(halves[0], halves[1], 0xdd));
  }
  __m512 pairs[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m512d a = _mm512_castps_pd(quads[2 * i]), b = _mm512_castps_pd(quads[2 * i + 1]);
    pairs[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  return F32x16{{(NativeF)_mm512_add_ps(_mm512_shuffle_ps(pairs[0], pairs[1], 0x88), _mm512_shuffle_ps(pairs[0], pairs[1], 0xdd))}};
#else
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = sum_lanes(v[i]);
  return load<F32x16>(lanes);
#endif
}

// sums[i] = codes[16 i] + ... + codes[16 i + 15], for i below count
HR_INLINE void sum_sixteens(const int8_t* codes, int count, int32_t* sums) {
#if defined(__AVX512VNNI__)
  const __m512i ones = _mm512_set1_epi8(1), firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  for (int i = 0; i < count; i += 4) {
    const int left = count - i < 4 ? count - i : 4;
    const __m512i four = _mm512_maskz_loadu_epi8(~uint64_t{0} >> (64 - 16 * left), codes + 16 * i);
    __m512i s = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, four);
    s = _mm512_add_epi32(s, _mm512_shuffle_epi32(s, _MM_PERM_CDAB));
    s = _mm512_add_epi32(s, _mm512_shuffle_epi32(s, _MM_PERM_BADC));
    _mm512_mask_storeu_epi32(sums + i, (1 << left) - 1, _mm512_permutexvar_epi32(firsts, s));
  }
#else
  for (int i = 0; i < count; ++i) {
    sums[i] = 0;
    for (int k = 0; k < 16; ++k) sums[i] += codes[16 * i + k];
  }
#endif
}

}  // namespace hr
