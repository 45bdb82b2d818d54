// Rows rounded to int8, for products with integer weights: a scale for each row and group of 32 columns, and the sums of codes that
// correct for the offset and the minimum of weights.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "quantized/codecs.h"
#include "simd/simd_reduce.h"

namespace hr {

// A row's 32 columns. As small as possible: few rows of a wide layer barely fit into the first cache.
struct IntegerGroup {
  int8_t codes[kGroup];
  float scale;
  float sum;                // scale * sum of codes
  int32_t minus_sum;        // minus the sum of codes
  int32_t minus_first_sum;  // minus that of codes 0..15

  // minus the sum of codes, or of part s of them where weights have a scale for each 16 columns
  template <int kParts>
  HR_INLINE int32_t minus_sum_of(int s) const {
    if (kParts == 1) return minus_sum;
    return s == 0 ? minus_first_sum : minus_sum - minus_first_sum;
  }

  // scale * the sum of codes, or of a part of them
  template <int kParts>
  HR_INLINE float sum_of(int s) const {
    return kParts == 1 ? sum : scale * static_cast<float>(-minus_sum_of<kParts>(s));
  }
};

// [M, groups], in tiles of rows that a kernel multiplies together: a tile's rows lie side by side, group after group, so that
// the kernel finds all that it needs behind one pointer.
struct IntegerRows {
  int64_t groups;
  int tile_rows, last_rows;  // of all tiles but the last, and of the last one; kernels compute whole tiles, and nobody reads
  int64_t last_tile;         // the extra rows
  IntegerGroup* first;

  // Of the tile that begins with `row`.
  HR_INLINE const IntegerGroup* tile(int64_t row) const { return first + row * groups; }

  HR_INLINE IntegerGroup& at(int64_t row, int64_t group) const {
    const int64_t tile = row / tile_rows, rows = tile == last_tile ? last_rows : tile_rows;
    return first[tile * tile_rows * groups + group * rows + row % tile_rows];
  }

  // x [columns] becomes row `row`, each group with the scale that makes its largest number 127.
  void put_scaled(int64_t row, const float* x) const {
    for_each_batch([&](int64_t g, int count) {
      F32x16 parts[kBatch];
      for (int i = 0; i < kBatch; ++i) {
        const float* group = x + (g + i) * kGroup;
        parts[i] = i < count ? max(abs(load<F32x16>(group)), abs(load<F32x16>(group + 16))) : broadcast(0.0f);
      }
      const F32x16 largest = max_of_each(parts), zero = broadcast(0.0f);
      F32x16 inverse = broadcast(127.0f) / largest;
      HR_EACH(inverse.r[i] = largest.r[i] > 0 ? inverse.r[i] : zero.r[i])
      put_groups(row, g, count, x, largest / broadcast(127.0f), inverse);
    });
  }

  // x [columns], whole numbers from -128 to 127, becomes row `row` at scale 1.
  void put_whole(int64_t row, const float* x) const {
    for_each_batch([&](int64_t g, int count) { put_groups(row, g, count, x, broadcast(1.0f), broadcast(1.0f)); });
  }

 private:
  static constexpr int kBatch = 16;  // groups: a lane each

  template <class Function>
  HR_INLINE void for_each_batch(const Function& f) const {
    for (int64_t g = 0; g < groups; g += kBatch) f(g, static_cast<int>(std::min<int64_t>(kBatch, groups - g)));
  }

  // lane i of group_scale and inverse: of group g + i
  HR_INLINE void put_groups(int64_t row, int64_t g, int count, const float* x, const F32x16& group_scale,
                            const F32x16& inverse) const {
    float scales[kBatch], inverses[kBatch];
    store(scales, group_scale);
    store(inverses, inverse);
    alignas(64) int8_t codes[kBatch * kGroup];
    for (int i = 0; i < 2 * count; ++i) store_int8(codes + 16 * i, load<F32x16>(x + g * kGroup + 16 * i) * broadcast(inverses[i / 2]));
    int32_t sums[2 * kBatch];
    sum_sixteens(codes, 2 * count, sums);
    for (int i = 0; i < count; ++i) {
      IntegerGroup& group = at(row, g + i);
      const int32_t sum = sums[2 * i] + sums[2 * i + 1];
      std::memcpy(group.codes, codes + i * kGroup, kGroup);
      group.scale = scales[i];
      group.sum = scales[i] * static_cast<float>(sum);
      group.minus_sum = -sum;
      group.minus_first_sum = -sums[2 * i];
    }
  }
};

// Memory for such rows, which grows and stays.
class IntegerRowMemory {
 public:
  // last_rows: what the tile takes that is left of `rows` over whole tiles
  IntegerRows reserve(int64_t rows, int64_t groups, int tile_rows, int last_rows) {
    const int64_t last_tile = (rows - 1) / tile_rows;
    const size_t size = (last_tile * tile_rows + last_rows) * groups;
    if (groups_.size() < size) groups_.resize(size);
    return {groups, tile_rows, last_rows, last_tile, groups_.data()};
  }

 private:
  std::vector<IntegerGroup> groups_;
};

}  // namespace hr
