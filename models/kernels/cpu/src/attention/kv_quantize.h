// What becomes of keys and values before they are stored as codes (kv_codes.h).
//
// In 8-bit floats a number has 4 bits, and so an error in proportion to its own size, unless it happens to be a code: the scale
// decides for which numbers that is so. A key has the one of four scales that errs least, by the sum of squares. With each of
// them the largest number, whose error would be the largest, becomes a code, but for the rounding of the scale. Values, whose
// errors hardly change what a model says, have the first. The sums are whole numbers, so that every processor and torch choose alike.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "attention/kv_codes.h"
#include "simd/simd.h"

namespace hr {

template <KvCode kCode>
constexpr int kCutBits = 23 - Fp8<kCode>::kMantissa;  // that fp32 has and its 8-bit floats have not

// The bits of `size`, numbers without a sign, moved right by kCutBits, rounded to nearest even.
template <KvCode kCode>
HR_INLINE Bits rounded_bits(Bits size) {
  const Bits odd = shift_right<kCutBits<kCode>>(size) & broadcast(1u);
  HR_EACH(size.r[i] = (size.r[i] + (odd.r[i] + ((1u << (kCutBits<kCode> - 1)) - 1))) >> kCutBits<kCode>)
  return size;
}

// Numbers over the scale, whose inverse is given, to 16 codes.
template <KvCode kCode>
HR_INLINE void store_codes(const F32x16& x, float inverse, uint8_t* codes) {
  const F32x16 scaled = min(max(x * broadcast(inverse), broadcast(-kLargestCode<kCode>)), broadcast(kLargestCode<kCode>));
  if constexpr (kCode == kInt8) {
    store_int8(reinterpret_cast<int8_t*>(codes), scaled);
    for (int i = 0; i < 16; ++i) codes[i] ^= 0x80;  // plus 128
  } else {
    const Bits bits = bits_of(scaled);
    const F32x16 absolute = abs(scaled);
    Bits rounded = rounded_bits<kCode>(bits_of(absolute));
    HR_EACH(rounded.r[i] -= static_cast<uint32_t>(127 - Fp8<kCode>::kBias) << Fp8<kCode>::kMantissa;
            rounded.r[i] = absolute.r[i] < Fp8<kCode>::kSmallest ? NativeU{} : rounded.r[i] | (bits.r[i] >> 24 & 0x80u))
    alignas(64) uint32_t lanes[16];
    store(lanes, rounded);
    for (int i = 0; i < 16; ++i) codes[i] = static_cast<uint8_t>(lanes[i]);
  }
}

inline float inverse_of(float x) { return x == 0 ? 0.0f : 1.0f / x; }

inline Bf16 rounded_scale(float scale) {
  const Bf16 rounded = to_bf16(scale);
  return to_float(rounded) < 1e-30f ? Bf16{0} : rounded;  // its inverse would not be finite; NaN stays
}

constexpr int kKeyScales = 4;  // that a key in 8-bit floats chooses from

// The code that the largest number becomes with a scale: 7, 6, 5 or 4 quarters of a power of two.
template <KvCode kCode>
constexpr float top_code(int i) {
  return kLargestCode<kCode> / 7 * (7 - i);
}

// The squared error of numbers as 8-bit floats, over the scale whose inverse is given. No error exceeds 2^10 units, and so no sum
// of kMaxCodedDim squares 2^30.
template <KvCode kCode, class Element>
int32_t squared_error(const Element* x, int size, float inverse) {
  constexpr float kUnits = 1024 * (1 << Fp8<kCode>::kMantissa) * 3.5f / kLargestCode<kCode>;  // of the code 1; a power of two
  const F32x16 magic = broadcast(12582912.0f);  // 1.5 * 2^23: the low bits are the nearest integer
  I32x16 sum{};
  for (int d = 0; d < size; d += 16) {
    const F32x16 absolute = abs(load_lanes(x + d) * broadcast(inverse));  // at most 2^-8 above the largest code
    F32x16 rounded = floats_of(shift_left<kCutBits<kCode>>(rounded_bits<kCode>(bits_of(absolute))));
    HR_EACH(rounded.r[i] = absolute.r[i] < Fp8<kCode>::kSmallest ? NativeF{} : rounded.r[i])
    const I32x16 error = integers_of(bits_of((absolute - rounded) * broadcast(kUnits) + magic)) + broadcast(-0x4b400000);
    HR_EACH(sum.r[i] += error.r[i] * error.r[i])
  }
  return sum_lanes(sum);
}

// The scale of a key in 8-bit floats whose largest number is given.
template <KvCode kCode, class Element>
Bf16 key_scale(const Element* x, int size, float largest) {
  Bf16 best = 0;
  float least = 0;
  for (int i = 0; i < kKeyScales; ++i) {
    const Bf16 scale = rounded_scale(largest / top_code<kCode>(i));
    const float weight = static_cast<float>(1.0 / ((7 - i) * (7 - i)));  // of a scale's square, but for its rounding
    const float error = static_cast<float>(squared_error<kCode>(x, size, inverse_of(to_float(scale)))) * weight;
    if (i > 0 && !(error < least)) continue;
    best = scale;
    least = error;
  }
  return best;
}

// The codes of one head, and their scale.
template <KvCode kCode, class Element>
Bf16 quantize_head(const Element* x, int size, uint8_t* codes, bool is_key) {
  const float largest = largest_of(x, size);
  Bf16 scale = rounded_scale(largest / kLargestCode<kCode>);
  if constexpr (kCode != kInt8) {
    if (is_key && std::isfinite(largest)) scale = key_scale<kCode>(x, size, largest);
  }
  const float inverse = inverse_of(to_float(scale));
  for (int d = 0; d < size; d += 16) store_codes<kCode>(load_lanes(x + d), inverse, codes + d);
  return scale;
}

constexpr int kStepNumbers = 8;  // of a key

struct Extent {
  float low, high;
  float size() const { return std::max(-low, high); }
  bool is_lowest_largest() const { return -low >= high; }
};

inline Extent extent_of(const float* x, int size) {
  Extent extent{x[0], x[0]};
  for (int i = 1; i < size; ++i) {
    extent.low = std::min(extent.low, x[i]);
    extent.high = std::max(extent.high, x[i]);
  }
  return extent;
}

// Units from 0 to 15 of 16 numbers over their steps, whose inverses are given; zeros: the unit of 0.
HR_INLINE void store_units(const F32x16& x, const F32x16& inverses, const F32x16& zeros, uint8_t* units) {
  int8_t codes[16];
  store_int8(codes, min(max(x * inverses, broadcast(0.0f) - zeros), broadcast(15.0f) - zeros));
  float lanes[16];
  store(lanes, zeros);
  for (int i = 0; i < 16; ++i) units[i] = static_cast<uint8_t>(codes[i] + static_cast<int>(lanes[i])) & 15;
}

// The units of a value's 4-bit codes, and their scale.
inline Bf16 quantize_int4_value(const float* x, int size, uint8_t* units) {
  Bf16 scale = rounded_scale(largest_of(x, size) / 8);
  if (!extent_of(x, size).is_lowest_largest()) scale ^= 0x8000;
  const F32x16 inverse = broadcast(inverse_of(to_float(scale)));
  for (int d = 0; d < size; d += 16) store_units(load<F32x16>(x + d), inverse, broadcast(8.0f), units + d);
  return scale;
}

// The units of a key's 4-bit codes, the codes of its groups' steps, and its scale.
inline Bf16 quantize_int4_key(const float* x, int size, uint8_t* units, uint8_t* steps) {
  const Bf16 scale = rounded_scale(largest_of(x, size) / 64);
  const float step = to_float(scale), inverse = inverse_of(step * 8);
  for (int d = 0; d < size; d += 16) {
    alignas(64) float inverses[16], zeros[16];
    for (int i = 0; i < 16; i += kStepNumbers) {
      const Extent extent = extent_of(x + d + i, kStepNumbers);
      const float largest = extent.size() * inverse;  // NaN where numbers are not finite
      const float count = std::ceil(std::min(largest > 1.0f ? largest : 1.0f, 8.0f));
      const bool reaches_low = extent.is_lowest_largest();
      std::fill_n(inverses + i, kStepNumbers, inverse_of(step * count));
      std::fill_n(zeros + i, kStepNumbers, reaches_low ? 8.0f : 7.0f);
      steps[(d + i) / kStepNumbers] = static_cast<uint8_t>(static_cast<int>(count) - 1 + (reaches_low ? 0 : 8));
    }
    store_units(load<F32x16>(x + d), load<F32x16>(inverses), load<F32x16>(zeros), units + d);
  }
  return scale;
}

// As store_coded, in 4 bits. key, value: spread if they are to be.
inline void store_int4(const float* key, const float* value, int lane, uint8_t* head, int head_dim, int value_dim) {
  uint8_t units[kMaxCodedDim], steps[kMaxCodedDim / kStepNumbers];
  Bf16* scales = reinterpret_cast<Bf16*>(head + scales_offset(kInt4, head_dim, value_dim));
  scales[lane] = quantize_int4_key(key, head_dim, units, steps);
  uint8_t* stored_steps = head + kTile * (head_dim + value_dim) / 2;
  for (int d = 0; d < head_dim; d += 8)
    for (int i = 0; i < 4; ++i)
      head[d / 2 * kTile + lane * 4 + i] = static_cast<uint8_t>(units[d + i] | units[d + 4 + i] << 4);
  for (int d = 0; d < head_dim / 16; ++d)
    stored_steps[d * kTile + lane] = static_cast<uint8_t>(steps[2 * d] | steps[2 * d + 1] << 4);
  if (!value) return;
  scales[scale_room(head_dim) / 2 + lane] = quantize_int4_value(value, value_dim, units);
  uint8_t* values = head + kTile * head_dim / 2;
  for (int d = 0, half = value_dim / 2; d < half; ++d)
    values[(lane / 4 * half + d) * 4 + lane % 4] = static_cast<uint8_t>(units[d] | units[d + half] << 4);
}

// A head in fp32: less `center`, which may be null, and multiplied by the Hadamard matrix if `is_spread`.
template <class Element>
void prepare_head(const Element* x, int dim, const float* center, bool is_spread, float* out) {
  alignas(64) float less[kMaxCodedDim];
  float* target = is_spread ? less : out;
  for (int d = 0; d < dim; d += 16)
    store(target + d, center ? load_lanes(x + d) - load<F32x16>(center + d) : load_lanes(x + d));
  if (is_spread) hadamard_head(less, dim, out);
}

// Stores a position's key and value (null where it is part of the key) of one head, whose tile begins at `head`. center: of the
// head's keys, or null.
template <KvCode kCode, class Element>
void store_coded(const Element* key, const Element* value, const float* center, int lane, uint8_t* head, int head_dim,
                 int value_dim) {
  alignas(64) uint8_t codes[kMaxCodedDim];
  alignas(64) float prepared[kMaxCodedDim];
  const bool is_spread = has_spread_keys(kCode, value != nullptr), is_prepared = is_spread || center || kCode == kInt4;
  if (is_prepared) prepare_head(key, head_dim, center, is_spread, prepared);
  if constexpr (kCode == kInt4) {
    alignas(64) float spread_value[kMaxCodedDim];
    if (value) prepare_head(value, value_dim, nullptr, is_spread, spread_value);
    store_int4(prepared, value ? spread_value : nullptr, lane, head, head_dim, value_dim);
  } else {
    Bf16* scales = reinterpret_cast<Bf16*>(head + scales_offset(kCode, head_dim, value_dim));
    scales[lane] = is_prepared ? quantize_head<kCode>(prepared, head_dim, codes, true)
                               : quantize_head<kCode>(key, head_dim, codes, true);
    constexpr int kPacked = kCodePack<kCode>;
    for (int d = 0; d < head_dim; d += kPacked) std::memcpy(head + d * kTile + lane * kPacked, codes + d, kPacked);
    if (!value) return;
    scales[scale_room(head_dim) / 2 + lane] = quantize_head<kCode>(value, value_dim, codes, false);
    uint8_t* values = head + kTile * head_dim;
    for (int d = 0; d < value_dim; ++d) values[(lane / kPacked * value_dim + d) * kPacked + lane % kPacked] = codes[d];
  }
}

}  // namespace hr
