// Packed weights: how each quantized format lies in memory, and how 16 rows x 32 columns of it are unpacked.
//
// A matrix [N, K] is cut into blocks of 16 output rows (the last one padded with zero scales) and, along K, into units
// of 64 columns = two groups of 32 (K padded likewise). All bytes of a row block are consecutive: a thread streams them.
// Within a group, one 64-byte vector holds 4 columns of 16 rows: what one byte dot-product instruction consumes. Vector j
// (0..7) is columns 4j .. 4j + 3; lane r, byte c is row r, column 4j + c.
//
//   nibbles  256 bytes: vector v (0..3) carries the low 4 bits of vector v in its low nibbles, of v + 4 in its high ones
//   bit      64 bytes:  bit j of each byte is bit 4 (2 above crumbs) of the code in vector j
//   crumbs   128 bytes: bits 4 and 5 (0 and 1 where there are no nibbles); byte vector h (0, 1), bits 2i and 2i + 1 belong to
//            vector 4h + i
//   bytes    512 bytes: the codes themselves
//
//   format  64-byte header per 256 columns   unit of 64 columns                                       bits a weight
//   Q4_0    -                                d [2][16] fp16, nibbles x 2                               4.5
//   Q4_1    -                                d [2][16], m [2][16] fp16, nibbles x 2                    5
//   Q5_0    -                                d [2][16] fp16, (bit, nibbles) x 2                        5.5
//   Q5_1    -                                d, m [2][16] fp16, (bit, nibbles) x 2                     6
//   Q8_0    -                                d [2][16] fp16, bytes x 2 (code + 128)                    8.5
//   Q2_K    d, dmin [16] fp16                s | m << 4 [2][2][16] uint8 (per 16 columns), crumbs x 2  2.625
//   Q3_K    d [16] fp16, 32 bytes unused     s [2][2][16] int8 (per 16 columns), (bit, crumbs) x 2     3.625
//   Q4_K    d, dmin [16] fp16                s [2][16], m [2][16] uint8, nibbles x 2                   4.625
//   Q5_K    d, dmin [16] fp16                s [2][16], m [2][16] uint8, (bit, nibbles) x 2            5.625
//   Q6_K    d [16] fp16, 32 bytes unused     s [2][2][16] int8 (per 16 columns), (nibbles, crumbs) x 2 6.625
//
// Scales are stored as the file has them, so a dequantized weight is exactly the format's.
//
//   weight = scale * (code - kOffset) + minimum,   scale = d or d * s,   minimum = m or -dmin * m (where there is one)
#pragma once

#include "linear/segments.h"
#include "simd/simd.h"

namespace hr {

constexpr int kGroup = 32;  // columns that share a scale, of weights and of activations
constexpr int kUnit = 64;
constexpr int kSuper = 256;
constexpr int kUnitsPerHeader = kSuper / kUnit;
constexpr int kVectors = kGroup / 4;

enum class Format : int32_t { Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K };

// 16 rows x 32 columns, unpacked. scale[1] and minimum[1] are those of columns 16..31 where a format has two.
struct Group {
  Bits codes[kVectors];
  F32x16 scale[2];
  F32x16 minimum[2];
};

HR_INLINE const uint16_t* halves(const uint8_t* p) { return reinterpret_cast<const uint16_t*>(p); }

// 16 bytes as the lanes' low bytes
HR_INLINE Bits load_uint8_lanes(const uint8_t* p) {
#if defined(__AVX512F__)
  return Bits{{(NativeU)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}};
#else
  uint32_t lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = p[i];
  return load<Bits>(lanes);
#endif
}

HR_INLINE F32x16 load_uint8(const uint8_t* p) { return to_float(integers_of(load_uint8_lanes(p))); }

HR_INLINE F32x16 load_int8(const int8_t* p) {
#if defined(__AVX512F__)
  return F32x16{{(NativeF)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))}};
#else
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = p[i];
  return load<F32x16>(lanes);
#endif
}

HR_INLINE void unpack_nibbles(const uint8_t* p, Bits* codes) {
  const Bits low = broadcast(0x0f0f0f0fu);
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v) {
    const Bits both = load<Bits>(p + 64 * v);
    codes[v] = both & low;
    codes[v + 4] = shift_right<4>(both) & low;
  }
}

// kBits bits from bit kFrom of every byte to bit kTo
template <int kBits, int kFrom, int kTo>
HR_INLINE Bits moved_bits(const Bits& bytes) {
  const Bits mask = broadcast(((1u << kBits) - 1) * (0x01010101u << kTo));
  if constexpr (kTo >= kFrom)
    return shift_left<kTo - kFrom>(bytes) & mask;
  else
    return shift_right<kFrom - kTo>(bytes) & mask;
}

template <int kTo, int v = 0>
HR_INLINE void add_bit(const uint8_t* p, Bits* codes) {
  codes[v] = codes[v] | moved_bits<1, v, kTo>(load<Bits>(p));
  if constexpr (v + 1 < kVectors) add_bit<kTo, v + 1>(p, codes);
}

template <int kTo, int v = 0>
HR_INLINE void add_crumbs(const uint8_t* p, Bits* codes) {
  codes[v] = codes[v] | moved_bits<2, 2 * (v % 4), kTo>(load<Bits>(p + 64 * (v / 4)));
  if constexpr (v + 1 < kVectors) add_crumbs<kTo, v + 1>(p, codes);
}

// Formats with fp16 scales per group: kBits 4, 5 or 8, with or without a minimum.
template <int kBits, bool kMinimum>
struct PlainCodec {
  static constexpr bool kHasMinimum = kMinimum;
  static constexpr int kScales = 1;
  static constexpr int kOffset = kMinimum ? 0 : 1 << (kBits - 1);
  static constexpr int kHeaderBytes = 0;
  static constexpr int kScaleBytes = kMinimum ? 128 : 64;
  static constexpr int kGroupBytes = kBits * 64;
  static constexpr int kUnitBytes = kScaleBytes + 2 * kGroupBytes;

  // group `half` (0, 1) of the unit
  static HR_INLINE Group unpack(const uint8_t*, const uint8_t* unit, int half) {
    Group g;
    g.scale[0] = load_half(halves(unit) + 16 * half);
    if constexpr (kMinimum) g.minimum[0] = load_half(halves(unit) + 32 + 16 * half);
    const uint8_t* p = unit + kScaleBytes + half * kGroupBytes;
    if constexpr (kBits == 8) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) g.codes[v] = load<Bits>(p + 64 * v);
    } else {
      unpack_nibbles(p + (kBits == 5 ? 64 : 0), g.codes);
      if constexpr (kBits == 5) add_bit<4>(p, g.codes);
    }
    return g;
  }
};

// Q4_K and Q5_K: 8-bit scale and minimum per group, scaled by two fp16 numbers per 256 columns.
template <int kBits>
struct SuperCodec {
  static constexpr bool kHasMinimum = true;
  static constexpr int kScales = 1;
  static constexpr int kOffset = 0;
  static constexpr int kHeaderBytes = 64;
  static constexpr int kScaleBytes = 64;
  static constexpr int kGroupBytes = kBits * 64;
  static constexpr int kUnitBytes = kScaleBytes + 2 * kGroupBytes;

  static HR_INLINE Group unpack(const uint8_t* header, const uint8_t* unit, int half) {
    Group g;
    g.scale[0] = load_half(halves(header)) * load_uint8(unit + 16 * half);
    g.minimum[0] = broadcast(-1.0f) * load_half(halves(header) + 16) * load_uint8(unit + 32 + 16 * half);
    const uint8_t* p = unit + kScaleBytes + half * kGroupBytes;
    unpack_nibbles(p + (kBits == 5 ? 64 : 0), g.codes);
    if constexpr (kBits == 5) add_bit<4>(p, g.codes);
    return g;
  }
};

// Scale and minimum of 4 bits each per 16 columns.
struct Q2KCodec {
  static constexpr bool kHasMinimum = true;
  static constexpr int kScales = 2;
  static constexpr int kOffset = 0;
  static constexpr int kHeaderBytes = 64;
  static constexpr int kScaleBytes = 64;
  static constexpr int kGroupBytes = 128;
  static constexpr int kUnitBytes = kScaleBytes + 2 * kGroupBytes;

  static HR_INLINE Group unpack(const uint8_t* header, const uint8_t* unit, int half) {
    Group g = {};
    const F32x16 d = load_half(halves(header)), minus_dmin = broadcast(-1.0f) * load_half(halves(header) + 16);
#pragma GCC unroll 2
    for (int s = 0; s < 2; ++s) {
      const Bits both = load_uint8_lanes(unit + 32 * half + 16 * s);
      g.scale[s] = d * to_float(integers_of(both & broadcast(15u)));
      g.minimum[s] = minus_dmin * to_float(integers_of(shift_right<4>(both)));
    }
    add_crumbs<0>(unit + kScaleBytes + half * kGroupBytes, g.codes);
    return g;
  }
};

// Q3_K and Q6_K: an 8-bit scale per 16 columns.
template <int kBits>
struct TwoScaleCodec {
  static constexpr bool kHasMinimum = false;
  static constexpr int kScales = 2;
  static constexpr int kOffset = 1 << (kBits - 1);
  static constexpr int kHeaderBytes = 64;
  static constexpr int kScaleBytes = 64;
  static constexpr int kGroupBytes = kBits * 64;
  static constexpr int kUnitBytes = kScaleBytes + 2 * kGroupBytes;

  static HR_INLINE Group unpack(const uint8_t* header, const uint8_t* unit, int half) {
    Group g = {};
    const F32x16 d = load_half(halves(header));
    const int8_t* scales = reinterpret_cast<const int8_t*>(unit) + 32 * half;
    g.scale[0] = d * load_int8(scales);
    g.scale[1] = d * load_int8(scales + 16);
    const uint8_t* p = unit + kScaleBytes + half * kGroupBytes;
    if constexpr (kBits == 6) {
      unpack_nibbles(p, g.codes);
      add_crumbs<4>(p + 256, g.codes);
    } else {
      add_bit<2>(p, g.codes);
      add_crumbs<0>(p + 64, g.codes);
    }
    return g;
  }
};

// f(codec) with the codec of `format`
template <class Function>
HR_INLINE auto with_codec(Format format, const Function& f) {
  switch (format) {
    case Format::Q4_0: return f(PlainCodec<4, false>{});
    case Format::Q4_1: return f(PlainCodec<4, true>{});
    case Format::Q5_0: return f(PlainCodec<5, false>{});
    case Format::Q5_1: return f(PlainCodec<5, true>{});
    case Format::Q8_0: return f(PlainCodec<8, false>{});
    case Format::Q2_K: return f(Q2KCodec{});
    case Format::Q3_K: return f(TwoScaleCodec<3>{});
    case Format::Q4_K: return f(SuperCodec<4>{});
    case Format::Q5_K: return f(SuperCodec<5>{});
    case Format::Q6_K: break;
  }
  return f(TwoScaleCodec<6>{});
}

inline int64_t num_units(int64_t columns) { return (columns + kUnit - 1) / kUnit; }

template <class Codec>
HR_INLINE int64_t block_bytes(int64_t columns) {
  const int64_t headers = Codec::kHeaderBytes ? (columns + kSuper - 1) / kSuper : 0;
  return headers * Codec::kHeaderBytes + num_units(columns) * Codec::kUnitBytes;
}

// Where unit u of a row block starts, and the header above it.
template <class Codec>
HR_INLINE const uint8_t* unit_address(const uint8_t* block, int64_t u) {
  if constexpr (Codec::kHeaderBytes == 0) return block + u * Codec::kUnitBytes;
  return block + (u / kUnitsPerHeader + 1) * Codec::kHeaderBytes + u * Codec::kUnitBytes;
}

template <class Codec>
HR_INLINE const uint8_t* header_address(const uint8_t* block, int64_t u) {
  return block + u / kUnitsPerHeader * (Codec::kHeaderBytes + kUnitsPerHeader * Codec::kUnitBytes);
}

}  // namespace hr
