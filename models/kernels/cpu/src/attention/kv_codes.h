// Quantized keys and values: bytes of codes, and a scale for each position and head.
//
//   x[d] ~ scale * code[d],   scale = bf16(max |x| / largest code),   code = round(x / scale)
//
// Codes of 8-bit floats lie where kv_layout.h has numbers of bf16 (pack = 2). Those of int8 are packed by four (pack = 4), plus
// 128, as instructions for products of bytes take them (attention_integers.h). The scales of a tile's keys follow the codes of
// keys and values, then those of values, 16 of bf16 each, in rooms that grow with the head (scale_slots in kv_layout.py):
//
//   tensor  [tiles, K, head_bytes]
//   head    [16 * D codes][16 * V codes][room of 16 key scales][room of 16 value scales]
//
// Codes of 4 bits become those of int8 before they are multiplied (unpack_head). Eight numbers of a key, which are one group,
// have a step of 1 to 8 scales, so that their int8 codes are multiples of it: 16 of them, from -8 or from -7 steps on, since one
// side needs 8. A value has one step, its scale, whose sign says the same.
//
//   head       [16 * D / 2 codes][16 * V / 2 codes][16 * D / 16 steps][room of 16 key scales][room of 16 value scales]
//   keys       [D / 8][16 lanes][4]   low four bits: the first four numbers of a group, high ones: the other four
//   values     [4][V / 2][4 lanes]    low four bits: dimension d, high ones: d + V / 2
//   steps      [D / 16][16 lanes]     low four bits: the first group, high ones: the second; the step less 1, plus 8 for -7
//
// Keys with values beside them are multiplied by a Hadamard matrix before they become whole numbers, and so are queries before
// their products with codes: scores stay as they were, and a key's few large channels, which would make its scale coarse, are
// spread over all of its numbers. For 8-bit floats this is worse: each of their numbers has an error in proportion to its own
// size. Values of 4 bits are multiplied, too, and so are the sums of values in the end, which undoes it. A constant for each
// head may be subtracted from keys, which adds the same to all scores of a query, and so changes no probability.
//
// Every code is a number in bf16, so that products with codes are exact before they are scaled. Codes of 8-bit floats are never
// subnormal, NaN or infinite; a head with such a number has a scale that is not finite.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "attention/kv_layout.h"
#include "simd/simd.h"

namespace hr {

enum KvCode : int { kNoCode = 0, kInt8 = 1, kE4M3 = 2, kE5M2 = 3, kInt4 = 4 };

inline int64_t scale_room(int size) { return 2 * kTile * std::max(1, size / 64); }

// Where the scales of a tile's head begin. value_dim: 0 where values are part of the keys.
inline int64_t scales_offset(int code, int head_dim, int value_dim) {
  return code == kInt4 ? kTile * (head_dim + value_dim) / 2 + head_dim : kTile * (head_dim + value_dim);
}

inline int64_t coded_head_bytes(int code, int head_dim, int value_dim) {
  return scales_offset(code, head_dim, value_dim) + scale_room(head_dim) + (value_dim ? scale_room(value_dim) : 0);
}

// What to do with the bits of an 8-bit float: its mantissa's size, its largest number, and the exponent's bias.
template <KvCode kCode>
struct Fp8 {
  static constexpr int kMantissa = kCode == kE4M3 ? 3 : 2;
  static constexpr int kBias = kCode == kE4M3 ? 7 : 15;
  static constexpr float kLargest = kCode == kE4M3 ? 448.0f : 57344.0f;
  static constexpr float kSmallest = kCode == kE4M3 ? 0x1p-6f : 0x1p-14f;  // that is normal
};

template <KvCode kCode>
constexpr int kCodePack = kCode == kInt8 ? 4 : 2;

template <KvCode kCode>
constexpr float kLargestCode = kCode == kInt8 ? 127.0f : Fp8<kCode>::kLargest;

// ---- the Hadamard matrix

constexpr int kMaxCodedDim = 1024;

// Whether keys were multiplied by the matrix before they became codes.
constexpr bool has_spread_keys(int code, bool has_values) { return (code == kInt8 || code == kInt4) && has_values; }
constexpr bool has_spread_values(int code, bool has_values) { return code == kInt4 && has_values; }

// +1 or -1: whether i & j has an even number of ones
struct HadamardTable {
  alignas(64) float rows[16][16];
  constexpr HadamardTable() : rows{} {
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 16; ++j) rows[i][j] = (0x6996 >> (i & j) & 1) ? -1.0f : 1.0f;
  }
};
inline constexpr HadamardTable kHadamard{};

// Multiplies each block of n numbers by the Hadamard matrix of n / sqrt(n), which is orthogonal and its own inverse; n is the
// largest power of two that divides dim, a multiple of 16. Sums have the same order on every processor, and in torch.
template <class Element>
void hadamard_head(const Element* x, int dim, float* out) {
  const int n = dim & -dim;
  for (int d = 0; d < dim; d += 16) {
    alignas(64) float wide[16];
    store(wide, load_lanes(x + d));
    F32x16 sum = broadcast(wide[0]);
    for (int i = 1; i < 16; ++i) sum = fma(broadcast(wide[i]), load<F32x16>(kHadamard.rows[i]), sum);
    store(out + d, sum);
  }
  for (int half = 16; half < n; half *= 2)
    for (int block = 0; block < dim; block += 2 * half)
      for (int d = block; d < block + half; d += 16) {
        const F32x16 a = load<F32x16>(out + d), b = load<F32x16>(out + d + half);
        store(out + d, a + b);
        store(out + d + half, a - b);
      }
  const F32x16 factor = broadcast(static_cast<float>(1.0 / std::sqrt(static_cast<double>(n))));
  for (int d = 0; d < dim; d += 16) store(out + d, load<F32x16>(out + d) * factor);
}

// The largest of |x|; if a number is NaN, so is this.
template <class Element>
float largest_of(const Element* x, int size) {
  I32x16 largest{};
  for (int d = 0; d < size; d += 16) largest = max(largest, magnitude_bits(load_lanes(x + d)));
  return float_of_bits(max_lanes(largest));
}

// ---- reading

// The step of each of its 16 codes, and the offset that makes units times the step int8 codes plus 128, in each of four bytes.
struct StepTable {
  alignas(64) uint32_t steps[16], offsets[16];
  constexpr StepTable() : steps{}, offsets{} {
    for (uint32_t code = 0; code < 16; ++code) {
      steps[code] = code % 8 + 1;
      offsets[code] = (128 - (code < 8 ? 8 : 7) * steps[code]) * 0x01010101u;
    }
  }
};
inline constexpr StepTable kStepTable{};

// Looks up the code in the low four bits of each lane.
HR_INLINE void read_steps(const Bits& codes, Bits& steps, Bits& offsets) {
#if defined(__AVX512F__)
  const __m512i lanes = (__m512i)codes.r[0];
  steps.r[0] = (NativeU)_mm512_permutexvar_epi32(lanes, _mm512_load_si512(kStepTable.steps));
  offsets.r[0] = (NativeU)_mm512_permutexvar_epi32(lanes, _mm512_load_si512(kStepTable.offsets));
#else
  HR_EACH(steps.r[i] = (codes.r[i] & 7) + 1;
          offsets.r[i] = 0x80808080u - (0x08080808u - (codes.r[i] >> 3 & 1) * 0x01010101u) * steps.r[i])
#endif
}

typedef uint8_t LaneBytes __attribute__((vector_size(kNativeLanes)));

// The codes of a tile's head in 4 bits as those of int8: keys, then values.
inline void unpack_head(const uint8_t* head, int head_dim, int value_dim, uint8_t* codes) {
  const Bits low_bits = broadcast(0x0f0f0f0fu);
  const uint8_t* steps = head + kTile * (head_dim + value_dim) / 2;
  for (int d = 0; d < head_dim; d += 16, steps += kTile) {
    Bits step_codes;
    HR_EACH(LaneBytes bytes; std::memcpy(&bytes, steps + i * kNativeLanes, kNativeLanes);
            step_codes.r[i] = __builtin_convertvector(bytes, NativeU))
    for (int i = 0; i < 2; ++i, head += 4 * kTile, codes += 8 * kTile) {
      // four bytes at once: unit * step + offset is from 64 to 192, so that no byte carries into the next
      Bits step, offset;
      read_steps(step_codes, step, offset);
      const Bits packed = load<Bits>(head);
      Bits first = packed & low_bits, second = shift_right<4>(packed) & low_bits;
      HR_EACH(first.r[i] = first.r[i] * step.r[i] + offset.r[i]; second.r[i] = second.r[i] * step.r[i] + offset.r[i])
      store(codes, first);
      store(codes + 4 * kTile, second);
      step_codes = shift_right<4>(step_codes);
    }
  }
  const int half = 2 * value_dim;  // bytes of four lanes
  for (int lane = 0; lane < kTile && value_dim; lane += 4, head += half, codes += 2 * half) {
    int d = 0;
    for (; d + 64 <= half; d += 64) {
      const Bits packed = load<Bits>(head + d);
      Bits first = packed & low_bits, second = shift_right<4>(packed) & low_bits;
      HR_EACH(first.r[i] += 0x78787878u; second.r[i] += 0x78787878u)
      store(codes + d, first);
      store(codes + half + d, second);
    }
    for (; d < half; ++d) {
      codes[d] = static_cast<uint8_t>((head[d] & 15) + 120);
      codes[half + d] = static_cast<uint8_t>((head[d] >> 4) + 120);
    }
  }
}

typedef int16_t NativeShort __attribute__((vector_size(kNativeBytes)));
typedef int8_t HalfBytes __attribute__((vector_size(kNativeBytes / 2)));

// The two of four int8 codes in each lane that are kFirst and kFirst + 1, as numbers of bf16.
template <int kFirst>
HR_INLINE Bits bf16_of_pair(const Bits& codes) {
  I32x16 even, odd;
  HR_EACH(even.r[i] = (NativeI)(codes.r[i] >> (8 * kFirst) & 0xff) - 128;
          odd.r[i] = (NativeI)(codes.r[i] >> (8 * kFirst + 8) & 0xff) - 128)
  return shift_right<16>(bits_of(to_float(even))) | (bits_of(to_float(odd)) & broadcast(0xffff0000u));
}

// 32 codes of 8-bit floats as numbers of bf16; `keep` masks their 16-bit units.
template <KvCode kCode>
HR_INLINE Bits bf16_of_codes(const uint8_t* codes, const Bits& keep) {
  Bits out;
  HR_EACH(HalfBytes bytes; std::memcpy(&bytes, codes + i * (kNativeBytes / 2), kNativeBytes / 2);
          out.r[i] = (NativeU)__builtin_convertvector(bytes, NativeShort) & keep.r[i])
  // the sign-extended byte moved up has the sign in bit 15, and exponent and mantissa below that of bf16, which has a larger bias
  constexpr int kShift = 7 - Fp8<kCode>::kMantissa;
  constexpr int16_t kBits = static_cast<int16_t>(0x8000 | 0x7f << kShift), kBias = (127 - Fp8<kCode>::kBias) << 7;
  HR_EACH(const NativeShort moved = (NativeShort)((NativeShort)out.r[i] << kShift) & kBits;
          out.r[i] = (NativeU)((moved & 0x7fff) != 0 ? (NativeShort)(moved + kBias) : NativeShort{}))
  return out;
}

HR_INLINE void store_pairs(const Bits& pairs, Bf16* first, Bf16*) { store(first, pairs); }
HR_INLINE void store_pairs(const Bits& pairs, float* first, float* second) {
  store(first, shift_left<16>(pairs));
  store(second, pairs & broadcast(0xffff0000u));
}

// The codes of a tile's keys in the layout of keys of `Element`.
template <KvCode kCode, class Element>
void widen_keys(const uint8_t* codes, int dim, Element* keys) {
  if constexpr (kCode == kInt8) {
    for (int d = 0; d < dim; d += 4, codes += 4 * kTile, keys += 4 * kTile) {
      const Bits each = load<Bits>(codes);
      store_pairs(bf16_of_pair<0>(each), keys, keys + kTile);
      store_pairs(bf16_of_pair<2>(each), keys + 2 * kTile, keys + 3 * kTile);
    }
  } else {
    const Bits keep = broadcast(0xffffffffu);
    for (int d = 0; d < dim; d += 2, codes += 2 * kTile, keys += 2 * kTile)
      store_pairs(bf16_of_codes<kCode>(codes, keep), keys, keys + kTile);
  }
}

// The codes of a tile's values in the layout of values of `Element`; zeros in lanes that are not first .. end - 1.
template <KvCode kCode, class Element>
void widen_values(const uint8_t* codes, int dim, int first, int end, Element* values) {
  const auto is_kept = [&](int lane) { return lane >= first && lane < end; };
  const auto kept = [&](int lane) {
    return broadcast((is_kept(lane) ? 0xffffu : 0u) | (is_kept(lane + 1) ? 0xffff0000u : 0u));
  };
  constexpr int kPacked = kCodePack<kCode>;
  for (int lane = 0; lane < kTile; lane += kPacked, codes += kPacked * dim, values += kPacked * dim) {
    const Bits keep = kept(lane);
    for (int d = 0; d < dim; d += 16) {
      Element* target = values + d * kPack<Element>;
      if constexpr (kCode == kInt8) {
        const Bits each = load<Bits>(codes + 4 * d);
        store_pairs(bf16_of_pair<0>(each) & keep, target, target + dim);
        store_pairs(bf16_of_pair<2>(each) & kept(lane + 2), target + 2 * dim, target + 3 * dim);
      } else {
        store_pairs(bf16_of_codes<kCode>(codes + 2 * d, keep), target, target + dim);
      }
    }
  }
}

// f(std::integral_constant<KvCode, code>) for the run-time code, which is not kNoCode
template <class Function>
HR_INLINE void with_code(int code, const Function& f) {
  if (code == kInt8) f(std::integral_constant<KvCode, kInt8>{});
  else if (code == kInt4) f(std::integral_constant<KvCode, kInt4>{});
  else if (code == kE4M3) f(std::integral_constant<KvCode, kE4M3>{});
  else f(std::integral_constant<KvCode, kE5M2>{});
}

}  // namespace hr
