// Rows rounded to int8, as integer weights meet them: a scale for each row and group of 32 columns, and the sums of codes that
// correct for the offset and the minimum of weights.
#pragma once

#include <algorithm>
#include <vector>

#include "codecs.h"
#include "simd_reduce.h"

namespace hr {

constexpr int kSpareRows = 24;  // kernels compute whole register tiles, and nobody looks at the rows too many

struct IntegerRows {
  int64_t columns, groups;  // columns are padded with zeros to whole groups, or as the weights want it
  int8_t* codes;            // [M, columns]
  float* scale;             // [M, groups]
  float* sum;               // [M, groups], scale * sum of codes
  int32_t* minus_sum;       // [M, groups, 2], minus the sums of codes 0..15 and 16..31

  // scale * sum of codes of group `at`, or of its part s where it has two parts of 16 columns
  template <int kParts>
  HR_INLINE float sum_of(int64_t at, int s) const {
    return kParts == 1 ? sum[at] : scale[at] * static_cast<float>(-minus_sum[2 * at + s]);
  }

  // of row `row`'s groups first .. end - 1
  HR_INLINE float sum_of_run(int64_t row, int64_t first, int64_t end) const {
    float total = 0;
    for (int64_t at = row * groups + first; at < row * groups + end; ++at) total += sum[at];
    return total;
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
    const float* from = x + g * kGroup;
    int8_t* target = codes + row * columns + g * kGroup;
    for (int i = 0; i < 2 * count; ++i) store_int8(target + 16 * i, load<F32x16>(from + 16 * i) * broadcast(inverses[i / 2]));
    int32_t sums[2 * kBatch];
    sum_sixteens(target, 2 * count, sums);
    const int64_t at = row * groups + g;
    for (int i = 0; i < count; ++i) {
      scale[at + i] = scales[i];
      sum[at + i] = scales[i] * static_cast<float>(sums[2 * i] + sums[2 * i + 1]);
      minus_sum[2 * (at + i)] = -sums[2 * i];
      minus_sum[2 * (at + i) + 1] = -sums[2 * i + 1];
    }
  }
};

// Memory for such rows, which grows and stays.
class IntegerRowMemory {
 public:
  // columns: a multiple of kGroup
  IntegerRows reserve(int64_t rows, int64_t columns) {
    rows += kSpareRows;
    const int64_t groups = columns / kGroup;
    grow(codes_, rows * columns);
    grow(scale_, rows * groups);
    grow(sum_, rows * groups);
    grow(minus_sum_, rows * groups * 2);
    return {columns, groups, codes_.data(), scale_.data(), sum_.data(), minus_sum_.data()};
  }

 private:
  template <class T>
  static void grow(std::vector<T>& vector, int64_t size) {
    if (static_cast<int64_t>(vector.size()) < size) vector.resize(size);
  }

  std::vector<int8_t> codes_;
  std::vector<float> scale_, sum_;
  std::vector<int32_t> minus_sum_;
};

}  // namespace hr
