// The two products of attention with int8 codes, in whole numbers and without widening a code.
//
// A row of queries or of weights is rounded to whole numbers of 15 bits and a sign, each as two signed bytes,
//
//   x[i] ~ factor * (256 * high[i] + low[i]),
//
// which is finer than bf16 for what counts in a sum. Codes are stored plus 128 (kv_codes.h), as the instruction needs them:
//
//   sum_i code[i] * high[i] = sum_i (code[i] + 128) * high[i] - 128 * sum_i high[i]
//
// Every sum is exact, since no more than 576 products of 128 * 255 are added.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention/attention_products.h"
#include "attention/kv_codes.h"
#include "simd/simd.h"

namespace hr {

#if defined(__AVX512VNNI__) || defined(__ARM_FEATURE_DOTPROD)
constexpr bool kHasByteProducts = true;  // elsewhere on x86 widened codes were not slower
#else
constexpr bool kHasByteProducts = false;
#endif
// Their sums, of high and of low bytes, fit into the registers.
constexpr int kWholeRows = 3, kWholeVectors = kHasByteProducts && kRegisters > 1 ? 1 : 4;
constexpr float kLargestWhole = 127 * 256;

// What a row of bytes is worth. minus_*: what its sums begin with, for the 128 of each code.
struct WholeRow {
  float factor;
  int32_t minus_high, minus_low;
};

HR_INLINE void store_bytes(int8_t* target, const I32x16& v) {
#if defined(__AVX512F__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm512_cvtepi32_epi8((__m512i)v.r[0]));
#else
  int32_t lanes[16];
  store(lanes, v);
  for (int i = 0; i < 16; ++i) target[i] = static_cast<int8_t>(lanes[i]);
#endif
}

// Rounds `size` numbers, whose largest is `most`, to high bytes, and to low bytes `stride` behind them. A number that is not
// finite makes the factor so.
inline WholeRow to_whole(const float* x, int size, float most, int8_t* bytes, int stride) {
  const float inverse = most > 1e-30f ? kLargestWhole / most : 0.0f;
  const F32x16 magic = broadcast(12582912.0f);  // 1.5 * 2^23: the low bits are the nearest integer, the others kMagicBits
  constexpr uint32_t kMagicBits = 0x4b400000;
  Bits sum = broadcast(-static_cast<uint32_t>(size / 16) * kMagicBits);
  I32x16 sum_high = broadcast(-static_cast<int32_t>(size / 16 * (kMagicBits >> 8)));
  for (int i = 0; i < size; i += 16) {
    const Bits whole = bits_of(load_lanes(x + i) * broadcast(inverse) + magic);
    I32x16 high;
    HR_EACH(high.r[i] = (NativeI)(whole.r[i] + 128) >> 8; sum.r[i] += whole.r[i])
    store_bytes(bytes + i, high);
    store_bytes(bytes + stride + i, integers_of(whole));
    sum_high = sum_high + high;
  }
  const int32_t all = sum_lanes(integers_of(sum)), high = sum_lanes(sum_high);
  constexpr int kLess = 128 - kByteZero;
  return {most / kLargestWhole, -kLess * high, -kLess * (all - 256 * high)};
}

// Sums of R rows and C vectors of 16, in whole numbers.
template <int R, int C>
struct WholeSums {
  I32x16 high[R][C], low[R][C];

  HR_INLINE explicit WholeSums(const WholeRow* rows) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < C; ++v) {
        high[r][v] = broadcast(rows[r].minus_high);
        low[r][v] = broadcast(rows[r].minus_low);
      }
  }

  // Adds four products to each lane. bytes: of the first row; codes(v): address of 64 codes
  template <class Address>
  HR_INLINE void add(const int8_t* bytes, int row_stride, int low_offset, const Address& codes) {
    Bits vectors[C];
#pragma GCC unroll 8
    for (int v = 0; v < C; ++v) vectors[v] = load<Bits>(codes(v));
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const uint32_t h = load_u32(bytes + r * row_stride), l = load_u32(bytes + r * row_stride + low_offset);
#pragma GCC unroll 8
      for (int v = 0; v < C; ++v) {
        high[r][v] = dot_bytes(high[r][v], vectors[v], h);
        low[r][v] = dot_bytes(low[r][v], vectors[v], l);
      }
    }
  }

  HR_INLINE F32x16 value(int r, int v, const WholeRow* rows) const {
    return fma(to_float(high[r][v]), broadcast(256.0f), to_float(low[r][v])) * broadcast(rows[r].factor);
  }
};

template <int R, int C>
void whole_score_block(const int8_t* q, const WholeRow* rows, const uint8_t* const* keys, int dim, float* scores) {
  WholeSums<R, C> sums(rows);
  for (int k = 0; k < dim / 4; ++k) sums.add(q + 4 * k, 2 * dim, dim, [&](int v) { return keys[v] + 64 * k; });
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < C; ++v) store(scores + r * kChunk + v * kTile, sums.value(r, v, rows));
}

template <int R, int C>
void whole_value_block(const int8_t* weights, const WholeRow* rows, const uint8_t* const* values, int first, int num_pieces,
                       int value_dim, const float* rescale, float* out) {
  WholeSums<R, C> sums(rows);
  for (int piece = 0; piece < num_pieces; ++piece)
    for (int k = 0; k < kTile / 4; ++k)
      sums.add(weights + piece * kTile + 4 * k, 2 * kChunk, kChunk,
               [&](int v) { return values[piece] + (k * value_dim + first + v * 16) * 4; });
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < C; ++v) {
      float* target = out + r * value_dim + first + v * 16;
      store(target, fma(broadcast(rescale[r]), load<F32x16>(target), sums.value(r, v, rows)));
    }
}

// f(row, rows, vector, vectors) for blocks of rows and vectors, whose numbers are constants
template <class Function>
HR_INLINE void each_block(int num_rows, int num_vectors, Lookahead& ahead, const Function& f) {
  for (int v = 0; v < num_vectors; v += kWholeVectors)
    with_constant<kWholeVectors>(std::min(kWholeVectors, num_vectors - v), [&](auto cols) {
      for (int r = 0; r < num_rows; r += kWholeRows) {
        ahead.fetch();
        with_constant<kWholeRows>(std::min(kWholeRows, num_rows - r), [&](auto rows) { f(r, rows, v, cols); });
      }
    });
}

// Scores of rows with the keys of pieces, before the keys' scales. q: [rows][2][dim] bytes.
inline void whole_scores(const int8_t* q, const WholeRow* rows, int num_rows, const uint8_t* const* keys, int num_pieces, int dim,
                         float* scores, Lookahead& ahead) {
  each_block(num_rows, num_pieces, ahead, [&](int r, auto count, int v, auto cols) {
    whole_score_block<count(), cols()>(q + r * 2 * dim, rows + r, keys + v, dim, scores + r * kChunk + v * kTile);
  });
}

// Adds the rows' weights times values to `out`, which is rescaled before. weights: [rows][2][kChunk] bytes.
inline void add_whole_values(const int8_t* weights, const WholeRow* rows, int num_rows, const uint8_t* const* values,
                             int num_pieces, int value_dim, const float* rescale, float* out, Lookahead& ahead) {
  each_block(num_rows, value_dim / 16, ahead, [&](int r, auto count, int v, auto cols) {
    whole_value_block<count(), cols()>(weights + r * 2 * kChunk, rows + r, values, v * 16, num_pieces, value_dim, rescale + r,
                                       out + r * value_dim);
  });
}

}  // namespace hr
