// Codes, scales and zeros in rows, as checkpoints have them -> blocks of scaled codes (scaled_codes.h); blocks -> rows.
#include <algorithm>

#include "parallel.h"
#include "scaled_codes.h"
#include "segments.h"

namespace {

using namespace hr;

// Where a column's code is within a step of 32 columns: its byte, and whether it is the byte's high nibble.
struct CodePlace {
  int byte;
  bool is_high;
};

CodePlace place_code(Code code, int lane, int column) {
  const int vector = column / 4, at = lane * 4 + column % 4;
  switch (code) {
    case Code::kInt8: return {64 * vector + at, false};
    case Code::kFp8: return {16 * column + lane, false};
    case Code::kNF4:
    case Code::kFP4: return {16 * (column / 2) + lane, column % 2 != 0};
    default: return {64 * (vector % 4) + at, vector >= 4};
  }
}

// The codes of a row's 32 columns, `bytes` of them as the checkpoint has them, to their places.
void pack_step(Code code, const uint8_t* source, int bytes, int lane, uint8_t* target) {
  switch (code) {
    case Code::kInt8:
      for (int v = 0; v < kVectors; ++v) {
        const uint32_t biased = load_u32(source + 4 * v) ^ 0x80808080u;  // signed byte + 128
        std::memcpy(target + 64 * v + 4 * lane, &biased, 4);
      }
      return;
    case Code::kFp8:
    case Code::kNF4:
    case Code::kFP4:
      for (int i = 0; i < bytes; ++i) target[16 * i + lane] = source[i];
      return;
    default: {
      // Columns 2i and 2i + 1 share byte i of `first`, those 16 further of `second`; here a column and that 16 further do.
      constexpr uint64_t kLow = 0x0f0f0f0f0f0f0f0f;
      uint64_t first, second;
      std::memcpy(&first, source, 8);
      std::memcpy(&second, source + 8, 8);
      const uint64_t even = (first & kLow) | (second & kLow) << 4, odd = (first >> 4 & kLow) | (second & ~kLow);
      for (int v = 0; v < 4; ++v) {
        const uint32_t e = static_cast<uint32_t>(even >> 16 * v), o = static_cast<uint32_t>(odd >> 16 * v);
        const uint32_t word = (e & 0xff) | (o & 0xff) << 8 | (e & 0xff00) << 8 | (o & 0xff00) << 16;
        std::memcpy(target + 64 * v + 4 * lane, &word, 4);
      }
    }
  }
}

// rows: the first of `lanes` rows of codes.
void pack_codes(const ScaledMatrix& m, const uint8_t* rows, int64_t row_bytes, int lanes, uint8_t* block) {
  const int step_bytes = static_cast<int>(m.step_bytes() / kBlockRows);
  for (int64_t step = 0; step < m.num_steps(); ++step) {  // rows inside: what is written stays in the first cache
    const int64_t left = row_bytes - step * step_bytes;
    const uint8_t* source = rows + step * step_bytes;
    uint8_t* target = block + m.codes_at(step);
    for (int lane = 0; lane < lanes; ++lane, source += row_bytes) {
      if (left >= step_bytes) {
        pack_step(m.format.code, source, step_bytes, lane, target);
      } else {
        uint8_t padded[kGroup] = {};
        std::memcpy(padded, source, left);
        pack_step(m.format.code, padded, step_bytes, lane, target);
      }
    }
  }
}

// out[k] = the weight at column k of one row
void dequantize_row(const ScaledMatrix& m, const uint8_t* block, int lane, int64_t columns, float* out) {
  float scale[16], zero[16] = {};
  for (int64_t step = 0; step < m.num_steps(); ++step) {
    if (step % m.steps_a_group == 0) {
      store(scale, m.scales(block, step / m.steps_a_group));
      if (m.format.has_zeros) store(zero, m.zeros(block, step / m.steps_a_group));
    }
    const uint8_t* codes = block + m.codes_at(step);
    const int count = static_cast<int>(std::min<int64_t>(kGroup, columns - step * kGroup));
    for (int i = 0; i < count; ++i) {
      const CodePlace place = place_code(m.format.code, lane, i);
      const uint8_t byte = codes[place.byte], nibble = place.is_high ? byte >> 4 : byte & 15;
      float value = 0;
      switch (m.format.code) {
        case Code::kInt4: value = nibble - 8; break;
        case Code::kE2M1: value = (kE2M1Table[nibble] - 128) * 0.5f; break;
        case Code::kIQ4NL: value = kIQ4NLTable[nibble] - 128; break;
        case Code::kInt8: value = byte - 128; break;
        case Code::kFp8: value = 256 * half_to_float(static_cast<uint16_t>((byte & 0x80) << 8 | (byte & 0x7f) << 7)); break;
        case Code::kNF4: value = kNF4Table[nibble]; break;
        case Code::kFP4: value = kFP4Table[nibble]; break;
      }
      out[step * kGroup + i] = (value - zero[lane]) * scale[lane];
    }
  }
}

int64_t num_blocks(int64_t rows) { return (rows + kBlockRows - 1) / kBlockRows; }

}  // namespace

// Bytes of a packed [rows, columns] matrix. format: see ScaledFormat. group_size: a multiple of 32, or at least `columns`.
HR_API int64_t hr_scaled_packed_bytes(int format, int64_t rows, int64_t columns, int64_t group_size) {
  return num_blocks(rows) * ScaledMatrix(format, columns, group_size).block_bytes;
}

// codes: [rows, columns] bytes, or [rows, columns / 2] with the even column's code in the low nibble. scales: [rows, groups] of
// the format's type. zeros: [rows, groups] int8, less the code's offset, or null. packed: aligned to 64.
HR_API void hr_scaled_pack(int format, const uint8_t* codes, const uint8_t* scales, const int8_t* zeros, int64_t rows,
                           int64_t columns, int64_t group_size, uint8_t* packed) {
  const ScaledMatrix m(format, columns, group_size);
  const int64_t scale_size = scale_bytes(m.format.scale_type);
  const int64_t row_bytes = code_bytes_per_step(m.format.code) == 512 ? columns : columns / 2;
  parallel_for(num_blocks(rows), 4, [&](int64_t b) {
    uint8_t* block = packed + b * m.block_bytes;
    std::memset(block, 0, m.block_bytes);
    const int lanes = static_cast<int>(std::min<int64_t>(kBlockRows, rows - b * kBlockRows));
    pack_codes(m, codes + b * kBlockRows * row_bytes, row_bytes, lanes, block);
    for (int lane = 0; lane < lanes; ++lane) {
      const int64_t row = b * kBlockRows + lane;
      for (int64_t g = 0; g < m.groups; ++g) {
        std::memcpy(block + m.scales_at(g) + lane * scale_size, scales + (row * m.groups + g) * scale_size, scale_size);
        if (zeros) block[m.zeros_at(g) + lane] = static_cast<uint8_t>(zeros[row * m.groups + g]);
      }
    }
  });
}

// out [num_ids, columns] fp32 = rows `ids` of the packed matrix, whose columns are in the order of the codes; ids must lie
// within it.
HR_API void hr_scaled_gather_rows(int format, const uint8_t* packed, int64_t columns, int64_t group_size, const int64_t* ids,
                                  int64_t num_ids, float* out) {
  const ScaledMatrix m(format, columns, group_size);
  parallel_for(num_ids, 8, [&](int64_t i) {
    dequantize_row(m, packed + ids[i] / kBlockRows * m.block_bytes, static_cast<int>(ids[i] % kBlockRows), columns,
                   out + i * columns);
  });
}
