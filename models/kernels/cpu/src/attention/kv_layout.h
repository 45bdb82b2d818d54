// How keys and values lie in a layer's KV tensor; shared by the attention kernel and the kernel that writes.
//
// A slot (block * block_size + offset) belongs to tile slot / 16, lane slot % 16; the layout does not depend on the
// block size. Per tile and KV head there are 16 * D elements of keys, then 16 * V of values, V being the size of a value:
//
//   tensor  [tiles, K, 16 * (D + V)]; [tiles, K, 16 * D] where values are part of the keys
//   keys    [D / pack][16 lanes][pack]     one 64-byte vector = `pack` dimensions of 16 positions
//   values  [16 / pack][V][pack]           one 64-byte vector = `pack` positions of 16 dimensions
//
// with pack = 2 for bf16 (what the bf16 dot-product instruction consumes) and 1 for fp32. So scores of 16 positions
// accumulate in the lanes of one vector, sixteen output dimensions in another, and neither product needs a transposition
// or a horizontal sum.
#pragma once

#include <cstdint>

#include "simd/simd.h"

namespace hr {

constexpr int kTile = 16;

// stored_dim: D + V, or D where values are part of the keys.
inline int64_t keys_offset(int64_t tile, int num_kv_heads, int head, int stored_dim) {
  return (tile * num_kv_heads + head) * kTile * stored_dim;
}

template <class Element>
HR_INLINE int key_index(int lane, int dim) {
  return (dim / kPack<Element> * kTile + lane) * kPack<Element> + dim % kPack<Element>;
}

template <class Element>
HR_INLINE int value_index(int lane, int dim, int value_dim) {
  return (lane / kPack<Element> * value_dim + dim) * kPack<Element> + lane % kPack<Element>;
}

#if defined(__AVX512BW__)
// Eight rows of eight 64-bit units at `from`, each unit with its middle numbers exchanged, to columns: rows `stride` elements
// apart.
HR_INLINE void transpose_units(const Bf16* from, Bf16* to, int64_t stride) {
  const __m512i exchange = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
  __m512i a[8], b[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) a[i] = _mm512_shuffle_epi8(_mm512_loadu_si512(from + 32 * i), exchange);
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {  // of two rows: units of even columns, and of odd ones, side by side
    b[i] = _mm512_unpacklo_epi64(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 4)  // of four rows: columns 0 and 4, 2 and 6 from even ones; 1 and 5, 3 and 7 from odd ones
#pragma GCC unroll 2
    for (int odd = 0; odd < 2; ++odd) {
      a[i + odd] = _mm512_shuffle_i64x2(b[i + odd], b[i + odd + 2], 0x88);
      a[i + odd + 2] = _mm512_shuffle_i64x2(b[i + odd], b[i + odd + 2], 0xdd);
    }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    _mm512_storeu_si512(to + i * stride, _mm512_shuffle_i64x2(a[i], a[i + 4], 0x88));
    _mm512_storeu_si512(to + (i + 4) * stride, _mm512_shuffle_i64x2(a[i], a[i + 4], 0xdd));
  }
}
#endif

// `dim` dimensions of a tile, a multiple of 16, from the layout of keys to that of values.
inline void keys_to_values(const float* keys, int dim, float* values) {
  for (int first = 0; first < dim; first += 16)
    for (int lane = 0; lane < kTile; ++lane)
      for (int d = first; d < first + 16; ++d) values[lane * dim + d] = keys[d * kTile + lane];
}

// A unit of 64 bits holds 2 dimensions of 2 positions; in both layouts: [dim / 2][8] of them as keys, [8][dim / 2] as values,
// each with its two middle numbers exchanged.
inline void keys_to_values(const Bf16* keys, int dim, Bf16* values) {
#if defined(__AVX512BW__)
  for (int first = 0; first < dim; first += 16, keys += 16 * kTile, values += 32) transpose_units(keys, values, dim * 2);
#else
  for (int first = 0; first < dim / 2; first += 8)
    for (int pair = 0; pair < kTile / 2; ++pair)
      for (int k = first; k < first + 8; ++k) {
        uint64_t unit;
        std::memcpy(&unit, keys + (k * kTile / 2 + pair) * 4, 8);
        unit = (unit & 0xffff00000000ffffu) | (unit >> 16 & 0xffff0000u) | (unit & 0xffff0000u) << 16;
        std::memcpy(values + (pair * (dim / 2) + k) * 4, &unit, 8);
      }
#endif
}

}  // namespace hr
