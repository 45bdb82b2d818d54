// GGUF blocks -> packed weights (codecs.h), and packed weights -> dequantized rows.
//
// GGUF rows [N][K / block] of blocks, each a run of columns of one row. A reader turns a block into codes (one byte a
// weight) and scales; the writer places them. Threads take row blocks.
#include <algorithm>
#include <atomic>
#include <vector>

#include "linear/row_runs.h"
#include "quantized/codecs.h"
#include "quantized/gguf_groups.h"
#include "runtime/parallel.h"
#include "runtime/replay.h"

namespace {

using namespace hr;

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

// false if a scale is no finite number
template <class Codec>
bool pack_block(Format format, const uint8_t* raw, int64_t first_row, int64_t rows, int64_t columns, uint8_t* block) {
  const GGUFBlock shape = gguf_block(format);
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

typedef uint32_t Quads __attribute__((vector_size(16)));

// out [count, columns] = rows lane .. lane + count - 1 of a block.
template <class Codec, class Element>
void dequantize_rows(const uint8_t* block, int lane, int count, int64_t columns, Element* out) {
  alignas(64) uint8_t codes[kVectors * 64];
  float scale[2][16], minimum[2][16];
  for (int64_t group = 0; group < columns / kGroup; ++group) {
    const Group g = Codec::unpack(header_address<Codec>(block, group / 2), unit_address<Codec>(block, group / 2), group % 2);
    for (int v = 0; v < kVectors; ++v) store(codes + 64 * v, g.codes[v]);
    for (int s = 0; s < Codec::kScales; ++s) {
      store(scale[s], g.scale[s]);
      if constexpr (Codec::kHasMinimum) store(minimum[s], g.minimum[s]);
    }
    for (int row = 0; row < count; ++row)
      for (int half = 0; half < 2; ++half) {
        const int s = Codec::kScales == 2 ? half : 0, from = lane + row;
        const uint8_t* at = codes + 256 * half + 4 * from;
        const Quads quads = {load_u32(at), load_u32(at + 64), load_u32(at + 128), load_u32(at + 192)};
        const F32x16 numbers = load_uint8(reinterpret_cast<const uint8_t*>(&quads));
        F32x16 values = broadcast(scale[s][from]) * (numbers - broadcast(static_cast<float>(Codec::kOffset)));
        if constexpr (Codec::kHasMinimum) values = values + broadcast(minimum[s][from]);
        store_lanes(out + row * columns + group * kGroup + 16 * half, values);
      }
  }
}

template <class Codec, class Element>
void gather(const uint8_t* packed, int64_t columns, const int64_t* ids, int64_t num_ids, Element* out) {
  for_row_runs(ids, num_ids, [&](int64_t i, int64_t block, int lane, int count) {
    dequantize_rows<Codec>(packed + block * block_bytes<Codec>(columns), lane, count, columns, out + i * columns);
  });
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
    if (out_is_bf16)
      gather<Codec>(packed, columns, ids, num_ids, static_cast<Bf16*>(out));
    else
      gather<Codec>(packed, columns, ids, num_ids, static_cast<float*>(out));
  });
}

HR_REPLAYABLE(hr_gather_rows)
