// Scaled codes: matrices of one code a weight, one scale per row and group of columns, as safetensors checkpoints have them
// (GPTQ, AWQ, compressed-tensors, bitsandbytes, FP8, MXFP4, NVFP4). The group size is any multiple of 32, or the whole row; 16
// for codes that come in pairs of scales.
//
//   weight = scale[row, group] * (value(code) - zero[row, group])        zero: where the matrix has them
//
// A matrix [N, K] is cut into blocks of 16 output rows (the last one padded with zeros); K is padded to a multiple of 32. A
// block is one chunk for every 4 groups, in the order in which it is read, so that memory sees one stream. A chunk is
//
//   scales   [4 groups][16 rows] in the checkpoint's own type, so that weights are exactly the checkpoint's
//   zeros    [4 groups][16 rows] int8, less kOffset of the code (a zero point of 8 in 4 bits is stored as 0)
//   codes    of the groups' columns, 32 at a time, in one of the layouts below; the last chunk may have fewer
//
// each padded to 64 bytes. A matrix of fewer than 4 groups has scales and zeros for those only. Where groups are of 16 columns, the
// layout's groups are of 32 and have two scales: [4 groups][2 halves][16 rows].
//
// Scales in E4M3 are multiplied by one number for the matrix. It is kept, times kFp8Factor, for each of the 16 rows in fp32 before
// the block's first chunk.
//
//   code     bits  layout of 32 columns                                          value
//   INT4     4     nibbles of codecs.h                                           code - 8
//   E2M1     4     nibbles of codecs.h                                           table / 2 (MXFP4, NVFP4)
//   IQ4_NL   4     nibbles of codecs.h                                           table (GGUF)
//   IQ2      4     nibbles of codecs.h                                           table (GGUF's types of 1 and 2 bits)
//   TERNARY  2     vectors v, v + 2, v + 4, v + 6 of the columns 4v..4v + 3 in    code - 1 (GGUF's TQ, BitNet)
//                  two bits of each byte, from the lowest on
//   INT8     8     bytes of codecs.h, stored as code + 128                       code
//   FP8      8     [32 columns][16 rows]                                         E4M3
//   NF4      4     [16 pairs of columns][16 rows], the even column's code low    table (QLoRA)
//   FP4      4     as NF4                                                        table (bitsandbytes)
//
// The first six are integers that meet activations rounded to int8; the others meet activations in fp32.
#pragma once

#include "quantized/codecs.h"
#include "simd/simd_codes.h"

namespace hr {

enum class Code : int32_t { kInt4, kE2M1, kIQ4NL, kIQ2, kTernary, kInt8, kFp8, kNF4, kFP4 };
enum class ScaleType : int32_t { kHalf, kBf16, kFloat, kE8M0, kE4M3 };

// kE2M1's values are halves; its table holds twice as much.
alignas(16) constexpr uint8_t kE2M1Table[16] = {128, 129, 130, 131, 132, 134, 136, 140, 128, 127, 126, 125, 124, 122, 120, 116};
alignas(16) constexpr uint8_t kIQ4NLTable[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
alignas(16) constexpr uint8_t kIQ2Table[16] = {85, 103, 119, 120, 121, 127, 129, 135, 136, 137, 153, 171, 128, 128, 128, 128};
alignas(64) constexpr float kNF4Table[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f,
    -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};
alignas(64) constexpr float kFP4Table[16] = {0.0f,  0.005208333333f,  0.66666667f,  1.0f,  0.33333333f,  0.5f,  0.16666667f,  0.25f,
                                             -0.0f, -0.005208333333f, -0.66666667f, -1.0f, -0.33333333f, -0.5f, -0.16666667f, -0.25f};

// Integer codes: 32 columns of 16 rows as bytes of value + kOffset, at kFactor times their size. kScales: of 32 columns, one, or
// one for each half.
struct Int4Code {
  static constexpr int kBytes = 256, kOffset = 8, kScales = 1;
  static constexpr float kFactor = 1;
  static HR_INLINE void unpack(const uint8_t* p, Bits* codes) { unpack_nibbles(p, codes); }
};

template <const uint8_t (&kTable)[16], bool kHalves, int kScalesOf32 = 1>
struct TableCode {
  static constexpr int kBytes = 256, kOffset = 128, kScales = kScalesOf32;
  static constexpr float kFactor = kHalves ? 0.5f : 1;
  static HR_INLINE void unpack(const uint8_t* p, Bits* codes) {
    unpack_nibbles(p, codes);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) codes[v] = look_up_bytes(kTable, codes[v]);
  }
};

struct TernaryCode {
  static constexpr int kBytes = 128, kOffset = 1, kScales = 1;
  static constexpr float kFactor = 1;
  static HR_INLINE void unpack(const uint8_t* p, Bits* codes) {
    const Bits low = broadcast(0x03030303u);
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      const Bits all = load<Bits>(p + 64 * v);
      codes[v] = all & low;
      codes[v + 2] = shift_right<2>(all) & low;
      codes[v + 4] = shift_right<4>(all) & low;
      codes[v + 6] = shift_right<6>(all) & low;
    }
  }
};

struct Int8Code {
  static constexpr int kBytes = 512, kOffset = 128, kScales = 1;
  static constexpr float kFactor = 1;
  static HR_INLINE void unpack(const uint8_t* p, Bits* codes) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) codes[v] = load<Bits>(p + 64 * v);
  }
};

// Float codes: two columns (2i, 2i + 1) of 16 rows, which kFactor makes values.
struct Fp8Code {
  static constexpr int kBytes = 512, kScales = 1;
  static constexpr float kFactor = kFp8Factor;
  static HR_INLINE void unpack(const uint8_t* p, int pair, F32x16* columns) { load_fp8(p + 32 * pair, columns); }
};

template <const float (&kTable)[16]>
struct FloatTableCode {
  static constexpr int kBytes = 256, kScales = 1;
  static constexpr float kFactor = 1;
  static HR_INLINE void unpack(const uint8_t* p, int pair, F32x16* columns) {
    const Bits both = load_uint8_lanes(p + 16 * pair);
    columns[0] = look_up_floats(kTable, both);
    columns[1] = look_up_floats(kTable, shift_right<4>(both));
  }
};

// What a segment's `format` says of a matrix.
struct ScaledFormat {
  Code code;
  ScaleType scale_type;
  bool has_zeros;
  bool has_pairs;  // of scales for 32 columns

  explicit ScaledFormat(int32_t word)
      : code(static_cast<Code>(word & 0xff)),
        scale_type(static_cast<ScaleType>(word >> 8 & 0xff)),
        has_zeros(word >> 16 & 1),
        has_pairs(word >> 17 & 1) {}
  bool is_integer() const { return code <= Code::kInt8; }
};

// f(code) with the code's type. Two functions, since integers and floats are unpacked by different kernels.
template <class Function>
HR_INLINE void with_integer_code(const ScaledFormat& format, const Function& f) {
  if (format.has_pairs && format.code == Code::kE2M1) return f(TableCode<kE2M1Table, true, 2>{});
  if (format.has_pairs) return f(TableCode<kIQ2Table, false, 2>{});
  switch (format.code) {
    case Code::kInt4: return f(Int4Code{});
    case Code::kE2M1: return f(TableCode<kE2M1Table, true>{});
    case Code::kIQ4NL: return f(TableCode<kIQ4NLTable, false>{});
    case Code::kIQ2: return f(TableCode<kIQ2Table, false>{});
    case Code::kTernary: return f(TernaryCode{});
    default: return f(Int8Code{});
  }
}

template <class Function>
HR_INLINE void with_float_code(Code code, const Function& f) {
  switch (code) {
    case Code::kFp8: return f(Fp8Code{});
    case Code::kNF4: return f(FloatTableCode<kNF4Table>{});
    default: return f(FloatTableCode<kFP4Table>{});
  }
}

inline int64_t code_bytes_per_step(Code code) {
  if (code == Code::kTernary) return 128;
  return code == Code::kInt8 || code == Code::kFp8 ? 512 : 256;
}

inline int64_t scale_bytes(ScaleType type) { return type == ScaleType::kFloat ? 4 : type >= ScaleType::kE8M0 ? 1 : 2; }

HR_INLINE F32x16 load_scales(ScaleType type, const uint8_t* scales) {
  switch (type) {
    case ScaleType::kHalf: return load_half(halves(scales));
    case ScaleType::kBf16: return load_bf16(halves(scales));
    case ScaleType::kFloat: return load<F32x16>(scales);
    case ScaleType::kE8M0:
    case ScaleType::kE4M3: break;  // the latter come in pairs
  }
  // 2^(e - 127): the exponent's bits of an fp32, in which 2^-127 is subnormal
  return max(floats_of(shift_left<23>(load_uint8_lanes(scales))), broadcast(0x1p-127f));
}

constexpr int64_t kChunkGroups = 4;

// The geometry of a matrix's blocks. Places are counted from a block's first byte.
struct ScaledMatrix {
  ScaledFormat format;
  int64_t columns;         // padded
  int64_t groups;
  int64_t steps_a_group;   // 32 columns each; the last group may have fewer
  int64_t group_scales;    // scales of a group: 16 rows, or twice that
  int64_t prefix_bytes;    // before the first chunk
  int64_t zeros_offset, header_bytes, chunk_bytes;  // of a chunk; its header is the part before the codes
  int64_t block_bytes;

  ScaledMatrix(int32_t word, int64_t num_columns, int64_t group_size) : format(word) {
    const auto aligned = [](int64_t bytes) { return (bytes + 63) / 64 * 64; };
    columns = (num_columns + kGroup - 1) / kGroup * kGroup;
    steps_a_group = (std::min(group_size, columns) + kGroup - 1) / kGroup;  // a whole row may end within a step
    groups = (columns / kGroup + steps_a_group - 1) / steps_a_group;
    group_scales = format.has_pairs ? 32 : 16;
    prefix_bytes = format.scale_type == ScaleType::kE4M3 ? 64 : 0;
    const int64_t scales = std::min(kChunkGroups, groups) * group_scales;
    zeros_offset = aligned(scales * scale_bytes(format.scale_type));
    header_bytes = zeros_offset + (format.has_zeros ? aligned(scales) : 0);
    chunk_bytes = header_bytes + kChunkGroups * steps_a_group * step_bytes();
    block_bytes = prefix_bytes + (groups + kChunkGroups - 1) / kChunkGroups * header_bytes + num_steps() * step_bytes();
  }

  int64_t num_steps() const { return columns / kGroup; }
  int64_t step_bytes() const { return code_bytes_per_step(format.code); }

  int64_t scales_at(int64_t group) const {
    return prefix_bytes + group / kChunkGroups * chunk_bytes +
           group % kChunkGroups * group_scales * scale_bytes(format.scale_type);
  }
  int64_t zeros_at(int64_t group) const {
    return prefix_bytes + group / kChunkGroups * chunk_bytes + zeros_offset + group % kChunkGroups * 16;
  }
  int64_t codes_at(int64_t step) const {
    return prefix_bytes + (step / steps_a_group / kChunkGroups + 1) * header_bytes + step * step_bytes();
  }

  // scale [kScales] of a group, times kFactor or not
  template <class Code, bool kHasFactor = true>
  HR_INLINE void scales(const uint8_t* block, int64_t group, F32x16* scale) const {
    const uint8_t* const p = block + scales_at(group);
    if constexpr (Code::kScales == 1) {
      scale[0] = load_scales(format.scale_type, p);
    } else if (format.scale_type == ScaleType::kE4M3) {
      load_fp8(p, scale);
      const F32x16 of_matrix = load<F32x16>(block);
      scale[0] = scale[0] * of_matrix, scale[1] = scale[1] * of_matrix;
    } else {
      scale[0] = load_scales(format.scale_type, p);
      scale[1] = load_scales(format.scale_type, p + 16 * scale_bytes(format.scale_type));
    }
    if constexpr (kHasFactor)
      for (int s = 0; s < Code::kScales; ++s) scale[s] = scale[s] * broadcast(Code::kFactor);
  }
  F32x16 zeros(const uint8_t* block, int64_t group) const {
    return load_int8(reinterpret_cast<const int8_t*>(block + zeros_at(group)));
  }
};

}  // namespace hr
