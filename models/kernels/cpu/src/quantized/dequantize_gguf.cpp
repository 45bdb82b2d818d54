// GGUF blocks -> numbers, exactly the format's: for weights that are loaded as dense, or quantized again.
//
// weight = scale * (code - kOffset) + minimum, as in codecs.h. Products have at most 24 bits where a minimum is added, so that it
// does not matter whether that is one rounding or two.
#include <algorithm>
#include <atomic>

#include "quantized/codecs.h"
#include "quantized/gguf_groups.h"
#include "runtime/parallel.h"

namespace {

using namespace hr;

constexpr int64_t kChunkWeights = 16384;

typedef uint64_t CodePair __attribute__((vector_size(16)));

// Of columns 0..15 and 16..31 of a group.
struct HalfScales {
  float scale[2], minimum[2];
};

HR_INLINE HalfScales scales_of(Format format, const RowGroup& g) {
  const float d = half_to_float(g.d), m = half_to_float(g.m);
  const uint8_t* s = g.scales;
  switch (format) {
    case Format::Q4_K:
    case Format::Q5_K:
      return {{d * s[0], d * s[0]}, {-(m * s[1]), -(m * s[1])}};
    case Format::Q2_K:
      return {{d * (s[0] & 15), d * (s[1] & 15)}, {-(m * (s[0] >> 4)), -(m * (s[1] >> 4))}};
    case Format::Q3_K:
    case Format::Q6_K:
      return {{d * static_cast<int8_t>(s[0]), d * static_cast<int8_t>(s[1])}, {0, 0}};
    default:
      return {{d, d}, {m, m}};
  }
}

// false if a scale is no finite number
template <class Codec, class Element>
bool dequantize_row(Format format, const uint8_t* row, int64_t columns, Element* out) {
  const GGUFBlock shape = gguf_block(format);
  const int groups_per_block = shape.columns / kGroup;
  RowGroup g{};
  bool is_finite = true;
  for (int64_t group = 0; group < columns / kGroup; ++group) {
    read_group(format, row + group / groups_per_block * shape.bytes, static_cast<int>(group % groups_per_block), g);
    is_finite &= is_finite_half(g.d) && is_finite_half(g.m);
    const HalfScales scales = scales_of(format, g);
    for (int half = 0; half < 2; ++half) {
      const CodePair pair = {g.codes[2 * half], g.codes[2 * half + 1]};  // joined in a register, see RowGroup
      const F32x16 codes = load_uint8(reinterpret_cast<const uint8_t*>(&pair)) - broadcast(static_cast<float>(Codec::kOffset));
      F32x16 values = broadcast(scales.scale[half]) * codes;
      if constexpr (Codec::kHasMinimum) values = values + broadcast(scales.minimum[half]);
      store_lanes(out + group * kGroup + 16 * half, values);
    }
  }
  return is_finite;
}

}  // namespace

// raw: rows of GGUF blocks, contiguous. out: [rows, columns], bf16 or fp32. Returns 0 if a block's scale is no finite number,
// else 1.
HR_API int hr_dequantize_gguf(int format, const uint8_t* raw, int64_t rows, int64_t columns, int out_is_bf16, void* out) {
  const Format stored = static_cast<Format>(format);
  const GGUFBlock shape = gguf_block(stored);
  const int64_t row_bytes = columns / shape.columns * shape.bytes;
  std::atomic<int> is_finite{1};
  with_codec(stored, [&](auto codec) {
    using Codec = decltype(codec);
    parallel_for(rows, std::max<int64_t>(1, kChunkWeights / columns), [&](int64_t row) {
      const uint8_t* source = raw + row * row_bytes;
      const bool is_row_finite =
          out_is_bf16 ? dequantize_row<Codec>(stored, source, columns, static_cast<Bf16*>(out) + row * columns)
                      : dequantize_row<Codec>(stored, source, columns, static_cast<float*>(out) + row * columns);
      if (!is_row_finite) is_finite.store(0, std::memory_order_relaxed);
    });
  });
  return is_finite.load();
}
