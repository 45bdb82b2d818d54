// Codes, scales and zeros in rows, as checkpoints have them -> blocks of scaled codes (scaled_codes.h); blocks -> rows.
#include <algorithm>

#include "linear/row_runs.h"
#include "linear/segments.h"
#include "runtime/parallel.h"
#include "scaled/scaled_codes.h"

namespace {

using namespace hr;

// The codes of a row's 32 columns, `bytes` of them as the checkpoint has them, to their places.
void pack_step(Code code, const uint8_t* source, int bytes, int lane, uint8_t* target) {
  switch (code) {
    case Code::kInt8:
      for (int v = 0; v < kVectors; ++v) {
        const uint32_t biased = load_u32(source + 4 * v) ^ 0x80808080u;  // signed byte + 128
        std::memcpy(target + 64 * v + 4 * lane, &biased, 4);
      }
      return;
    case Code::kTernary:
      for (int w = 0; w < 2; ++w) {  // byte i of the source has the columns of vector i
        uint32_t word = 0;
        for (int s = 0; s < 4; ++s)
          for (int b = 0; b < 4; ++b) word |= (source[w + 2 * s] >> 2 * b & 3u) << (8 * b + 2 * s);
        std::memcpy(target + 64 * w + 4 * lane, &word, 4);
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

template <class IntegerCode>
void integer_columns(const uint8_t* step, F32x16* columns) {
  const Bits low = broadcast(0xffu);
  const auto put = [](const Bits& codes, F32x16& column) {
    const F32x16 numbers = to_float(integers_of(codes)) - broadcast(static_cast<float>(IntegerCode::kOffset));
    column = numbers * broadcast(IntegerCode::kFactor);
  };
  Bits codes[kVectors];
  IntegerCode::unpack(step, codes);
  for (int v = 0; v < kVectors; ++v) {
    put(codes[v] & low, columns[4 * v]);
    put(shift_right<8>(codes[v]) & low, columns[4 * v + 1]);
    put(shift_right<16>(codes[v]) & low, columns[4 * v + 2]);
    put(shift_right<24>(codes[v]), columns[4 * v + 3]);
  }
}

template <class FloatCode>
void float_columns(const uint8_t* step, F32x16* columns) {
  for (int pair = 0; pair < kGroup / 2; ++pair) FloatCode::unpack(step, pair, columns + 2 * pair);
  for (int c = 0; c < kGroup; ++c) columns[c] = columns[c] * broadcast(FloatCode::kFactor);
}

// The values of a step's 32 columns, each of 16 rows, without zeros and scales, and the scales of both halves.
void unpack_columns(const ScaledMatrix& m, const uint8_t* block, int64_t step, F32x16* columns, F32x16* scale) {
  const auto unpack = [&](auto code, const auto& columns_of) {
    using Code = decltype(code);
    columns_of(block + m.codes_at(step), columns);
    m.scales<Code, false>(block, step / m.steps_a_group, scale);
    if constexpr (Code::kScales == 1) scale[1] = scale[0];
  };
  if (m.format.is_integer())
    with_integer_code(m.format, [&](auto code) { unpack(code, integer_columns<decltype(code)>); });
  else
    with_float_code(m.format.code, [&](auto code) { unpack(code, float_columns<decltype(code)>); });
}

// out [count, columns] = rows lane .. lane + count - 1 of a block.
template <class Element>
void dequantize_rows(const ScaledMatrix& m, const uint8_t* block, int lane, int count, int64_t columns, Element* out) {
  F32x16 scale[2], zero = broadcast(0.0f), values[kGroup];
  float tile[kGroup][16], row[kGroup];
  for (int64_t step = 0; step < m.num_steps(); ++step) {
    if (m.format.has_zeros) zero = m.zeros(block, step / m.steps_a_group);
    unpack_columns(m, block, step, values, scale);
    for (int c = 0; c < kGroup; ++c) store(tile[c], (values[c] - zero) * scale[c / 16]);
    const int num_columns = static_cast<int>(std::min<int64_t>(kGroup, columns - step * kGroup));
    for (int r = 0; r < count; ++r) {
      Element* target = out + r * columns + step * kGroup;
      for (int c = 0; c < kGroup; ++c) row[c] = tile[c][lane + r];
      if (num_columns == kGroup) {
        store_lanes(target, load<F32x16>(row));
        store_lanes(target + 16, load<F32x16>(row + 16));
      } else {
        for (int c = 0; c < num_columns; ++c) store_one(target + c, row[c]);
      }
    }
  }
}

template <class Element>
void gather(const ScaledMatrix& m, const uint8_t* packed, int64_t columns, const int64_t* ids, int64_t num_ids, Element* out) {
  for_row_runs(ids, num_ids, [&](int64_t i, int64_t block, int lane, int count) {
    dequantize_rows(m, packed + block * m.block_bytes, lane, count, columns, out + i * columns);
  });
}

int64_t num_blocks(int64_t rows) { return (rows + kBlockRows - 1) / kBlockRows; }

}  // namespace

// Bytes of a packed [rows, columns] matrix. format: see ScaledFormat. group_size: a multiple of 32, or at least `columns`; 16 if
// the format has pairs of scales.
HR_API int64_t hr_scaled_packed_bytes(int format, int64_t rows, int64_t columns, int64_t group_size) {
  return num_blocks(rows) * ScaledMatrix(format, columns, group_size).block_bytes;
}

// codes: [rows, columns] bytes, or [rows, columns / 2] or [rows, columns / 4] with the first column's code in the lowest bits.
// scales: [rows, groups] of the format's type. zeros: [rows, groups] int8, less the code's offset, or null. matrix_scale: of the
// scales, if they are E4M3. packed: aligned to 64.
HR_API void hr_scaled_pack(int format, const uint8_t* codes, const uint8_t* scales, const int8_t* zeros, float matrix_scale,
                           int64_t rows, int64_t columns, int64_t group_size, uint8_t* packed) {
  const ScaledMatrix m(format, columns, group_size);
  const int64_t scale_size = scale_bytes(m.format.scale_type);
  const int64_t row_bytes = columns * m.step_bytes() / 512;
  parallel_for(num_blocks(rows), 4, [&](int64_t b) {
    uint8_t* block = packed + b * m.block_bytes;
    std::memset(block, 0, m.block_bytes);
    const int lanes = static_cast<int>(std::min<int64_t>(kBlockRows, rows - b * kBlockRows));
    if (m.prefix_bytes > 0) store(reinterpret_cast<float*>(block), broadcast(matrix_scale * kFp8Factor));
    pack_codes(m, codes + b * kBlockRows * row_bytes, row_bytes, lanes, block);
    for (int lane = 0; lane < lanes; ++lane) {
      const int64_t row = b * kBlockRows + lane;
      if (m.format.has_pairs) {
        const int64_t count = columns / 16;
        for (int64_t g = 0; g < count; ++g)
          std::memcpy(block + m.scales_at(g / 2) + (g % 2 * 16 + lane) * scale_size, scales + (row * count + g) * scale_size,
                      scale_size);
        continue;
      }
      for (int64_t g = 0; g < m.groups; ++g) {
        std::memcpy(block + m.scales_at(g) + lane * scale_size, scales + (row * m.groups + g) * scale_size, scale_size);
        if (zeros) block[m.zeros_at(g) + lane] = static_cast<uint8_t>(zeros[row * m.groups + g]);
      }
    }
  });
}

// out [num_ids, columns] = rows `ids` of the packed matrix, bf16 or fp32, with columns in the order of the codes; ids must lie
// within it.
HR_API void hr_scaled_gather_rows(int format, const uint8_t* packed, int64_t columns, int64_t group_size, const int64_t* ids,
                                  int64_t num_ids, int out_is_bf16, void* out) {
  const ScaledMatrix m(format, columns, group_size);
  if (out_is_bf16)
    gather(m, packed, columns, ids, num_ids, static_cast<Bf16*>(out));
  else
    gather(m, packed, columns, ids, num_ids, static_cast<float*>(out));
}
