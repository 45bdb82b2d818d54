// GGUF blocks -> packed weights (codecs.h), and packed weights -> dequantised rows.
//
// GGUF rows [N][K / block] of blocks, each a run of columns of one row. A reader turns a block into codes (one byte a
// weight) and scales; the writer places them. Threads take row blocks.
#include <algorithm>
#include <atomic>
#include <vector>

#include "codecs.h"
#include "parallel.h"
#include "replay.h"

namespace {

using namespace hr;

// What one row's 32 columns are made of; which scales are meaningful depends on the format.
struct RowGroup {
  uint64_t codes[kGroup / 8];  // eight columns a word, which is read as it was written: a wider load would wait for it
  uint16_t d, m;      // fp16 bits: scale and minimum; for K formats those of the super-block (d, dmin)
  uint8_t scales[4];  // K formats: s, m; Q2_K, Q3_K and Q6_K: as their units have it, of columns 0..15 and 16..31
};

uint16_t load_u16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }

// Eight codes at a time, a byte each: a word is cut and merged in one instruction, whatever the compiler vectorises.
constexpr uint64_t kOnes = 0x0101010101010101;

uint64_t load_codes(const uint8_t* source) {
  uint64_t codes;
  std::memcpy(&codes, source, 8);
  return codes;
}

// Bit i as byte i, 0 or 1.
uint64_t spread_bits(uint8_t bits) {
  const uint64_t at_own_place = bits * kOnes & 0x8040201008040201;
  return (at_own_place + 0x7f * kOnes) >> 7 & kOnes;  // at most 0x80 + 0x7f: no byte carries into the next
}

// Blocks of 32: fp16 d, [fp16 m], [32 fifth bits], 16 bytes: column i in the low nibble of byte i, i + 16 in the high one.
template <bool kMinimum, bool kFifth>
void read_nibble_block(const uint8_t* block, RowGroup& out) {
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

void read_q8_0(const uint8_t* block, RowGroup& out) {
  out.d = load_u16(block);
  for (int i = 0; i < 4; ++i) out.codes[i] = load_codes(block + 2 + 8 * i) ^ 0x80 * kOnes;  // signed byte + 128
}

// 256 columns: fp16 d, fp16 dmin, 12 bytes of 6-bit scales and minima, [32 bytes of fifth bits], 128 bytes: 32 bytes for
// groups 2i (low nibbles) and 2i + 1 (high nibbles).
template <bool kFifth>
void read_q45_k(const uint8_t* block, int group, RowGroup& out) {
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
void read_q6_k(const uint8_t* block, int group, RowGroup& out) {
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
void read_q2_k(const uint8_t* block, int group, RowGroup& out) {
  out.d = load_u16(block + 80);
  out.m = load_u16(block + 82);
  for (int i = 0; i < 4; ++i) out.codes[i] = load_codes(block + 16 + group / 4 * 32 + 8 * i) >> (group % 4 * 2) & 0x03 * kOnes;
  out.scales[0] = block[2 * group];
  out.scales[1] = block[2 * group + 1];
}

// 256 columns: 32 bytes of third bits (group g's at bit g), 64 bytes of codes as in Q2_K, 12 bytes of 6-bit scales, fp16 d. Scale i
// has its low bits in nibble i / 8 of byte i % 8, its upper two at 2 (i / 4) of byte 8 + i % 4.
void read_q3_k(const uint8_t* block, int group, RowGroup& out) {
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

struct Shape {
  int columns, bytes;
};

Shape gguf_block(Format format) {
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

void read_group(Format format, const uint8_t* block, int group, RowGroup& out) {
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

// Puts one row's codes into its lane of the group's vectors: four columns are four bytes, one 32-bit word.
template <class Codec>
void write_codes(const RowGroup& g, int row, uint8_t* group) {
  constexpr int kBits = Codec::kGroupBytes / 64;
  uint32_t quads[kVectors];
  for (int i = 0; i < 4; ++i) {
    quads[2 * i] = static_cast<uint32_t>(g.codes[i]);
    quads[2 * i + 1] = static_cast<uint32_t>(g.codes[i] >> 32);
  }
  const auto put = [&](int vector, uint32_t word) { std::memcpy(group + 64 * vector + 4 * row, &word, 4); };
  if constexpr (kBits == 8) {
    for (int v = 0; v < kVectors; ++v) put(v, quads[v]);
    return;
  }
  constexpr int kBitVectors = kBits % 2, kNibbleVectors = kBits >= 4 ? 4 : 0;
  if constexpr (kBitVectors == 1) {
    uint32_t bits = 0;
    for (int v = 0; v < kVectors; ++v) bits |= (quads[v] >> (kBits - 1) & 0x01010101) << v;
    put(0, bits);
  }
  if constexpr (kNibbleVectors > 0)
    for (int v = 0; v < 4; ++v) put(kBitVectors + v, (quads[v] & 0x0f0f0f0f) | (quads[v + 4] & 0x0f0f0f0f) << 4);
  if constexpr (kBits == 6 || kBits < 4) {
    for (int h = 0; h < 2; ++h) {
      uint32_t crumbs = 0;
      for (int i = 0; i < 4; ++i) crumbs |= (quads[4 * h + i] >> kNibbleVectors & 0x03030303) << (2 * i);
      put(kBitVectors + kNibbleVectors + h, crumbs);
    }
  }
}

void write_scales(Format format, const RowGroup& g, int row, int half, uint8_t* header, uint8_t* unit) {
  uint16_t* words = reinterpret_cast<uint16_t*>(unit);
  uint16_t* header_words = reinterpret_cast<uint16_t*>(header);
  switch (format) {
    case Format::Q4_1:
    case Format::Q5_1:
      words[32 + 16 * half + row] = g.m;
      [[fallthrough]];
    case Format::Q4_0:
    case Format::Q5_0:
    case Format::Q8_0:
      words[16 * half + row] = g.d;
      return;
    case Format::Q4_K:
    case Format::Q5_K:
      header_words[row] = g.d;
      header_words[16 + row] = g.m;
      unit[16 * half + row] = g.scales[0];
      unit[32 + 16 * half + row] = g.scales[1];
      return;
    case Format::Q2_K:
      header_words[16 + row] = g.m;
      [[fallthrough]];
    case Format::Q3_K:
    case Format::Q6_K:
      header_words[row] = g.d;
      unit[32 * half + row] = g.scales[0];
      unit[32 * half + 16 + row] = g.scales[1];
  }
}

bool is_finite_half(uint16_t bits) { return (bits & 0x7c00) != 0x7c00; }

// false if a scale is no finite number
template <class Codec>
bool pack_block(Format format, const uint8_t* raw, int64_t first_row, int64_t rows, int64_t columns, uint8_t* block) {
  const Shape shape = gguf_block(format);
  const int groups_per_block = shape.columns / kGroup;
  const int64_t row_bytes = columns / shape.columns * shape.bytes;
  std::memset(block, 0, block_bytes<Codec>(columns));
  const int num_rows = static_cast<int>(std::min<int64_t>(kBlockRows, rows - first_row));
  RowGroup g{};
  bool is_finite = true;
  for (int64_t group = 0; group < columns / kGroup; ++group) {  // rows inside: what is written stays in the first cache
    const int half = static_cast<int>(group % 2);
    uint8_t* unit = const_cast<uint8_t*>(unit_address<Codec>(block, group / 2));
    uint8_t* header = const_cast<uint8_t*>(header_address<Codec>(block, group / 2));
    const uint8_t* source = raw + first_row * row_bytes + group / groups_per_block * shape.bytes;
    for (int row = 0; row < num_rows; ++row, source += row_bytes) {
      read_group(format, source, static_cast<int>(group % groups_per_block), g);
      write_scales(format, g, row, half, header, unit);
      write_codes<Codec>(g, row, unit + Codec::kScaleBytes + half * Codec::kGroupBytes);
      is_finite &= is_finite_half(g.d) && is_finite_half(g.m);
    }
  }
  return is_finite;
}

template <class Codec, class Element>
void dequantise_row(const uint8_t* block, int lane, int64_t columns, Element* out) {
  alignas(64) uint8_t codes[kVectors * 64];
  float scale[2][16], minimum[2][16] = {};
  for (int64_t group = 0; group < columns / kGroup; ++group) {
    const Group g = Codec::unpack(header_address<Codec>(block, group / 2), unit_address<Codec>(block, group / 2), group % 2);
    for (int v = 0; v < kVectors; ++v) store(codes + 64 * v, g.codes[v]);
    for (int s = 0; s < Codec::kScales; ++s) {
      store(scale[s], g.scale[s]);
      if (Codec::kHasMinimum) store(minimum[s], g.minimum[s]);
    }
    for (int i = 0; i < kGroup; ++i) {
      const int code = codes[i / 4 * 64 + lane * 4 + i % 4] - Codec::kOffset;
      const int s = Codec::kScales == 2 ? i / 16 : 0;
      store_one(out + group * kGroup + i, scale[s][lane] * code + minimum[s][lane]);
    }
  }
}

}  // namespace

// Bytes of a packed [rows, columns] matrix.
HR_API int64_t hr_packed_bytes(int format, int64_t rows, int64_t columns) {
  return with_codec(static_cast<Format>(format), [&](auto codec) -> int64_t {
    return (rows + kBlockRows - 1) / kBlockRows * block_bytes<decltype(codec)>(columns);
  });
}

// raw: rows of GGUF blocks, contiguous. packed: hr_packed_bytes() bytes, aligned to 64. Returns 0 if a block's scale is no finite
// number, else 1.
HR_API int hr_pack_weights(int format, const uint8_t* raw, int64_t rows, int64_t columns, uint8_t* packed) {
  std::atomic<int> is_finite{1};
  with_codec(static_cast<Format>(format), [&](auto codec) {
    using Codec = decltype(codec);
    const int64_t stride = block_bytes<Codec>(columns);
    parallel_for((rows + kBlockRows - 1) / kBlockRows, 4, [&](int64_t block) {
      if (!pack_block<Codec>(static_cast<Format>(format), raw, block * kBlockRows, rows, columns, packed + block * stride))
        is_finite.store(0, std::memory_order_relaxed);
    });
  });
  return is_finite.load();
}

// out [num_ids, columns] = rows `ids` of the packed matrix, bf16 or fp32; ids must lie within it.
HR_API void hr_gather_rows(int format, const uint8_t* packed, int64_t columns, const int64_t* ids, int64_t num_ids,
                           int out_is_bf16, void* out) {
  with_codec(static_cast<Format>(format), [&](auto codec) {
    using Codec = decltype(codec);
    const int64_t stride = block_bytes<Codec>(columns);
    parallel_for(num_ids, 16, [&](int64_t i) {
      const uint8_t* block = packed + ids[i] / kBlockRows * stride;
      const int lane = static_cast<int>(ids[i] % kBlockRows);
      if (out_is_bf16)
        dequantise_row<Codec>(block, lane, columns, static_cast<Bf16*>(out) + i * columns);
      else
        dequantise_row<Codec>(block, lane, columns, static_cast<float*>(out) + i * columns);
    });
  });
}

HR_REPLAYABLE(hr_gather_rows)
