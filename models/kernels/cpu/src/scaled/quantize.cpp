// Quantization of a matrix to 4 bits, as models/quant/round_to_nearest.py defines it.
//
// INT4: of several clippings of a group, each a code c that its extreme e would get, the scale of the least squared error. With
// u = x / e and q = clamp(round(-c u), -8, 7) fixed, the best scale is e sum(uq) / sum(qq), and the best clipping the one whose
// sum(uq)^2 / sum(qq) is largest. NF4: the group's largest number has the table's largest.
//
// Sixteen groups are a tile, so that what there is once a group (sums over its lanes, quotients, the choice) is one vector with a
// lane a group.
#include <algorithm>
#include <vector>

#include "runtime/parallel.h"
#include "scaled/scaled_codes.h"
#include "simd/simd_reduce.h"

namespace {

using namespace hr;

constexpr int kTileGroups = 16;
constexpr int64_t kChunkWeights = 16384;
constexpr float kSmallestDivisor = 1e-36f;
constexpr float kExtremeCodes[] = {7.0f, 7.5f, 8.0f, 8.5f, 9.0f, 9.75f, 10.5f};

// [16 groups][width] in fp32. Groups that are shorter, or not there, end with zeros: these change neither extremes nor sums.
struct Tile {
  int64_t width = 0;
  std::vector<float> numbers, shares;  // shares: of the group's extreme

  void resize(int64_t group_size) {
    width = group_size;
    numbers.resize(kTileGroups * width);
    shares.resize(kTileGroups * width);
  }
};

HR_INLINE F32x16 round_int4(const F32x16& x) { return clamp(round_lanes(x), -8.0f, 7.0f); }

// Lane i: group i's number of the largest magnitude, or 0 where its inverse would not be finite.
F32x16 extremes_of(const Tile& tile) {
  F32x16 highest[kTileGroups], lowest[kTileGroups];  // lowest: negated
  for (int i = 0; i < kTileGroups; ++i) {
    const float* x = tile.numbers.data() + i * tile.width;
    highest[i] = load<F32x16>(x);
    lowest[i] = broadcast(-1.0f) * highest[i];
    for (int64_t k = 16; k < tile.width; k += 16) {
      const F32x16 v = load<F32x16>(x + k);
      highest[i] = max(highest[i], v);
      lowest[i] = max(lowest[i], broadcast(-1.0f) * v);
    }
  }
  const F32x16 high = max_of_each(highest), depth = max_of_each(lowest), size = max(high, depth);
  F32x16 extremes;
  HR_EACH(extremes.r[i] = high.r[i] > depth.r[i] ? high.r[i] : -depth.r[i];
          extremes.r[i] = size.r[i] < kSmallestDivisor ? NativeF{} : extremes.r[i])
  return extremes;
}

void take_shares(Tile& tile, const F32x16& extremes) {
  const F32x16 quotients = broadcast(1.0f) / extremes;
  float inverses[kTileGroups];
  F32x16 finite;
  HR_EACH(finite.r[i] = extremes.r[i] == 0 ? NativeF{} : quotients.r[i])
  store(inverses, finite);
  for (int i = 0; i < kTileGroups; ++i)
    for (int64_t k = i * tile.width; k < (i + 1) * tile.width; k += 16)
      store(tile.shares.data() + k, load<F32x16>(tile.numbers.data() + k) * broadcast(inverses[i]));
}

struct Int4Quantizer {
  // Lane i: group i's scale.
  static F32x16 scales(Tile& tile) {
    const F32x16 extremes = extremes_of(tile);
    take_shares(tile, extremes);
    F32x16 best_gain = broadcast(0.0f), scales = broadcast(0.0f);
    for (const float code : kExtremeCodes) {
      F32x16 products[kTileGroups], squares[kTileGroups];
      for (int i = 0; i < kTileGroups; ++i) {
        const float* shares = tile.shares.data() + i * tile.width;
        F32x16 product = broadcast(0.0f), square = broadcast(0.0f);
        for (int64_t k = 0; k < tile.width; k += 16) {
          const F32x16 share = load<F32x16>(shares + k), q = round_int4(share * broadcast(-code));
          product = fma(share, q, product);
          square = fma(q, q, square);
        }
        products[i] = product;
        squares[i] = square;
      }
      const F32x16 product = sum_of_each(products), fitted = product / max(sum_of_each(squares), broadcast(1.0f));
      const F32x16 gain = product * fitted;
      HR_EACH(scales.r[i] = gain.r[i] > best_gain.r[i] ? fitted.r[i] : scales.r[i])
      best_gain = max(gain, best_gain);
    }
    return scales * extremes;
  }

  // 16 numbers, in units of the scale, to codes
  static HR_INLINE F32x16 codes(const F32x16& v) { return round_int4(v) + broadcast(8.0f); }
};

struct NF4Quantizer {
  static F32x16 scales(Tile& tile) {
    F32x16 largest[kTileGroups];
    for (int i = 0; i < kTileGroups; ++i) {
      const float* x = tile.numbers.data() + i * tile.width;
      largest[i] = broadcast(0.0f);
      for (int64_t k = 0; k < tile.width; k += 16) largest[i] = max(largest[i], abs(load<F32x16>(x + k)));
    }
    return max_of_each(largest);
  }

  static HR_INLINE F32x16 codes(const F32x16& v) {
    F32x16 code = broadcast(0.0f);
    for (int i = 0; i < 15; ++i) {
      const F32x16 middle = broadcast((kNF4Table[i] + kNF4Table[i + 1]) / 2);
      HR_EACH(code.r[i] += v.r[i] > middle.r[i] ? NativeF{} + 1 : NativeF{})
    }
    return code;
  }
};

// 16 codes 0..15 as 8 bytes, the even one's low
HR_INLINE void store_nibbles(uint8_t* target, const F32x16& codes) {
  uint64_t words[2];
  store_int8(reinterpret_cast<int8_t*>(words), codes);
  for (int i = 0; i < 2; ++i) {
    uint64_t word = (words[i] | words[i] >> 4) & 0x00ff00ff00ff00ff;
    word = (word | word >> 8) & 0x0000ffff0000ffff;
    const uint32_t bytes = static_cast<uint32_t>(word | word >> 16);
    std::memcpy(target + 4 * i, &bytes, 4);
  }
}

struct Matrix {
  const void* x;
  bool is_bf16;
  int64_t columns, group_size;

  int64_t groups_a_row() const { return (columns + group_size - 1) / group_size; }
  int64_t first_column(int64_t group) const { return group % groups_a_row() * group_size; }
  int64_t place(int64_t group) const { return group / groups_a_row() * columns + first_column(group); }  // in rows of numbers
  int64_t size(int64_t group) const { return std::min(group_size, columns - first_column(group)); }

  void read(int64_t group, float* out, int64_t width) const {
    const int64_t first = place(group), count = size(group);
    for (int64_t k = 0; k < count; k += 16) {
      const int64_t at = first + k;
      store(out + k, is_bf16 ? load_bf16(static_cast<const Bf16*>(x) + at) : load<F32x16>(static_cast<const float*>(x) + at));
    }
    std::fill(out + count, out + width, 0.0f);
  }
};

template <class Quantizer>
void quantize_tile(const Matrix& m, int64_t first_group, int num_groups, uint8_t* codes, Bf16* scales) {
  Tile& tile = thread_scratch<Tile>();
  tile.resize(m.group_size);
  for (int i = 0; i < num_groups; ++i) m.read(first_group + i, tile.numbers.data() + i * tile.width, tile.width);
  std::fill(tile.numbers.begin() + num_groups * tile.width, tile.numbers.end(), 0.0f);
  float fitted[kTileGroups];
  store(fitted, Quantizer::scales(tile));
  for (int i = 0; i < num_groups; ++i) {
    const int64_t group = first_group + i, count = m.size(group);
    store_one(scales + group, fitted[i]);
    const float rounded = to_float(scales[group]);
    const F32x16 divisor = broadcast(std::fabs(rounded) < kSmallestDivisor ? 1.0f : rounded);
    const float* x = tile.numbers.data() + i * tile.width;
    uint8_t* target = codes + m.place(group) / 2;
    for (int64_t k = 0; k < count; k += 16) store_nibbles(target + k / 2, Quantizer::codes(load<F32x16>(x + k) / divisor));
  }
}

}  // namespace

// x: [rows, columns] bf16 or fp32, contiguous. format: the Code, kInt4 or kNF4. columns and group_size are multiples of 16; the
// last group may be smaller. codes: [rows, columns / 2], the even column's low; scales: [rows, groups] bf16.
HR_API void hr_quantize(const void* x, int x_is_bf16, int64_t rows, int64_t columns, int format, int64_t group_size,
                        uint8_t* codes, Bf16* scales) {
  const Matrix m{x, x_is_bf16 != 0, columns, group_size};
  const auto quantize = static_cast<Code>(format) == Code::kInt4 ? quantize_tile<Int4Quantizer> : quantize_tile<NF4Quantizer>;
  const int64_t groups = rows * m.groups_a_row();
  parallel_for((groups + kTileGroups - 1) / kTileGroups, std::max<int64_t>(1, kChunkWeights / (kTileGroups * group_size)),
               [&](int64_t tile) {
                 const int64_t first = tile * kTileGroups;
                 quantize(m, first, static_cast<int>(std::min<int64_t>(kTileGroups, groups - first)), codes, scales);
               });
}
