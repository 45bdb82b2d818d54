// GGUF blocks read 32 columns of a row at a time: codes, one byte a weight, and what scales them.
#pragma once

#include <cstdint>
#include <cstring>

#include "quantized/codecs.h"

namespace hr {

// What one row's 32 columns are made of; which scales are meaningful depends on the format.
struct RowGroup {
  uint64_t codes[kGroup / 8];  // eight columns a word, which is read as it was written: a wider load would wait for it
  uint16_t d, m;      // fp16 bits: scale and minimum; for K formats those of the super-block (d, dmin)
  uint8_t scales[4];  // K formats: s, m; Q2_K, Q3_K and Q6_K: as their units have it, of columns 0..15 and 16..31
};

inline uint16_t load_u16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }

// Eight codes at a time, a byte each: a word is cut and merged in one instruction, whatever the compiler vectorizes.
constexpr uint64_t kOnes = 0x0101010101010101;

inline uint64_t load_codes(const uint8_t* source) {
  uint64_t codes;
  std::memcpy(&codes, source, 8);
  return codes;
}

// Bit i as byte i, 0 or 1.
inline uint64_t spread_bits(uint8_t bits) {
  const uint64_t at_own_place = bits * kOnes & 0x8040201008040201;
  return (at_own_place + 0x7f * kOnes) >> 7 & kOnes;  // at most 0x80 + 0x7f: no byte carries into the next
}

// Blocks of 32: fp16 d, [fp16 m], [32 fifth bits], 16 bytes: column i in the low nibble of byte i, i + 16 in the high one.
template <bool kMinimum, bool kFifth>
inline void read_nibble_block(const uint8_t* block, RowGroup& out) {
  out.d = load_u16(block);
  if (kMinimum) out.m = load_u16(block + 2);
  const uint8_t* high = block + (kMinimum ? 4 : 2);
  const uint8_t* q = high + (kFifth ? 4 : 0);
  for (int i = 0; i < 2; ++i) {
    const uint64_t both = load_codes(q + 8 * i);
    uint64_t first = both & 0x0f * kOnes, second = both >> 4 & 0x0f * kOnes;
    if (kFifth) {
      first |= spread_bits(high[i]) << 4;
      second |= spread_bits(high[i + 2]) << 4;
    }
    out.codes[i] = first;
    out.codes[i + 2] = second;
  }
}

inline void read_q8_0(const uint8_t* block, RowGroup& out) {
  out.d = load_u16(block);
  for (int i = 0; i < 4; ++i) out.codes[i] = load_codes(block + 2 + 8 * i) ^ 0x80 * kOnes;  // signed byte + 128
}

// 256 columns: fp16 d, fp16 dmin, 12 bytes of 6-bit scales and minima, [32 bytes of fifth bits], 128 bytes: 32 bytes for
// groups 2i (low nibbles) and 2i + 1 (high nibbles).
template <bool kFifth>
inline void read_q45_k(const uint8_t* block, int group, RowGroup& out) {
  out.d = load_u16(block);
  out.m = load_u16(block + 2);
  const uint8_t* s = block + 4;
  if (group < 4) {
    out.scales[0] = s[group] & 63;
    out.scales[1] = s[group + 4] & 63;
  } else {
    out.scales[0] = (s[group + 4] & 15) | (s[group - 4] >> 6) << 4;
    out.scales[1] = s[group + 4] >> 4 | (s[group] >> 6) << 4;
  }
  const uint8_t* high = block + 16;
  const uint8_t* q = high + (kFifth ? 32 : 0) + group / 2 * 32;
  for (int i = 0; i < 4; ++i) {
    out.codes[i] = load_codes(q + 8 * i) >> (group % 2 * 4) & 0x0f * kOnes;
    if (kFifth) out.codes[i] |= (load_codes(high + 8 * i) >> group & kOnes) << 4;
  }
}

// 256 columns: 128 bytes of low nibbles, 64 bytes of upper pairs of bits, 16 int8 scales, fp16 d. Per 128 columns, four
// runs of 32: run r has its low bits in bytes 32 (r % 2) .., nibble r / 2, its upper bits at 2r of 32 bytes.
inline void read_q6_k(const uint8_t* block, int group, RowGroup& out) {
  out.d = load_u16(block + 208);
  const int half = group / 4, run = group % 4;
  const uint8_t* low = block + half * 64 + run % 2 * 32;
  const uint8_t* high = block + 128 + half * 32;
  for (int i = 0; i < 4; ++i) {
    const uint64_t upper = load_codes(high + 8 * i) >> (2 * run) & 0x03 * kOnes;
    out.codes[i] = (load_codes(low + 8 * i) >> (run / 2 * 4) & 0x0f * kOnes) | upper << 4;
  }
  out.scales[0] = block[192 + half * 8 + run * 2];
  out.scales[1] = block[192 + half * 8 + run * 2 + 1];
}

// 256 columns: 16 bytes of scales and minima, 64 bytes of codes, fp16 d, fp16 dmin. Per 128 columns, four runs of 32: run r has
// bits 2r and 2r + 1 of 32 bytes.
inline void read_q2_k(const uint8_t* block, int group, RowGroup& out) {
  out.d = load_u16(block + 80);
  out.m = load_u16(block + 82);
  for (int i = 0; i < 4; ++i) out.codes[i] = load_codes(block + 16 + group / 4 * 32 + 8 * i) >> (group % 4 * 2) & 0x03 * kOnes;
  out.scales[0] = block[2 * group];
  out.scales[1] = block[2 * group + 1];
}

// 256 columns: 32 bytes of third bits (group g's at bit g), 64 bytes of codes as in Q2_K, 12 bytes of 6-bit scales, fp16 d. Scale i
// has its low bits in nibble i / 8 of byte i % 8, its upper two at 2 (i / 4) of byte 8 + i % 4.
inline void read_q3_k(const uint8_t* block, int group, RowGroup& out) {
  out.d = load_u16(block + 108);
  for (int i = 0; i < 4; ++i) {
    const uint64_t third = load_codes(block + 8 * i) >> group & kOnes;
    out.codes[i] = (load_codes(block + 32 + group / 4 * 32 + 8 * i) >> (group % 4 * 2) & 0x03 * kOnes) | third << 2;
  }
  const uint8_t* s = block + 96;
  for (int part = 0; part < 2; ++part) {
    const int i = 2 * group + part;
    const int low = s[i % 8] >> (i / 8 * 4) & 15, high = s[8 + i % 4] >> (i / 4 * 2) & 3;
    out.scales[part] = static_cast<uint8_t>((low | high << 4) - 32);
  }
}

struct GGUFBlock {
  int columns, bytes;
};

inline GGUFBlock gguf_block(Format format) {
  switch (format) {
    case Format::Q4_0: return {32, 18};
    case Format::Q4_1: return {32, 20};
    case Format::Q5_0: return {32, 22};
    case Format::Q5_1: return {32, 24};
    case Format::Q8_0: return {32, 34};
    case Format::Q2_K: return {256, 84};
    case Format::Q3_K: return {256, 110};
    case Format::Q4_K: return {256, 144};
    case Format::Q5_K: return {256, 176};
    case Format::Q6_K: break;
  }
  return {256, 210};
}

inline void read_group(Format format, const uint8_t* block, int group, RowGroup& out) {
  switch (format) {
    case Format::Q4_0: return read_nibble_block<false, false>(block, out);
    case Format::Q4_1: return read_nibble_block<true, false>(block, out);
    case Format::Q5_0: return read_nibble_block<false, true>(block, out);
    case Format::Q5_1: return read_nibble_block<true, true>(block, out);
    case Format::Q8_0: return read_q8_0(block, out);
    case Format::Q2_K: return read_q2_k(block, group, out);
    case Format::Q3_K: return read_q3_k(block, group, out);
    case Format::Q4_K: return read_q45_k<false>(block, group, out);
    case Format::Q5_K: return read_q45_k<true>(block, group, out);
    case Format::Q6_K: return read_q6_k(block, group, out);
  }
}

inline bool is_finite_half(uint16_t bits) { return (bits & 0x7c00) != 0x7c00; }

}  // namespace hr
