// Rows rounded to int8, as integer weights meet them: a scale for each row and group of 32 columns, and the sums of codes that
// correct for the offset and the minimum of weights.
#pragma once

#include <algorithm>
#include <vector>

#include "codecs.h"

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

  // x [columns] becomes row `row`, each group with the scale that makes its largest number 127.
  void put_scaled(int64_t row, const float* x) const {
    for (int64_t g = 0; g < groups; ++g) {
      const F32x16 a = load<F32x16>(x + g * kGroup), b = load<F32x16>(x + g * kGroup + 16);
      const float largest = max_lanes(max(abs(a), abs(b)));
      put_group(row, g, a, b, largest / 127, largest > 0 ? 127 / largest : 0);
    }
  }

  // x [columns], whole numbers from -128 to 127, becomes row `row` at scale 1.
  void put_whole(int64_t row, const float* x) const {
    for (int64_t g = 0; g < groups; ++g)
      put_group(row, g, load<F32x16>(x + g * kGroup), load<F32x16>(x + g * kGroup + 16), 1, 1);
  }

 private:
  HR_INLINE void put_group(int64_t row, int64_t g, const F32x16& a, const F32x16& b, float group_scale, float inverse) const {
    const int64_t at = row * groups + g;
    int8_t* target = codes + row * columns + g * kGroup;
    const int32_t first = store_int8(target, a * broadcast(inverse)), second = store_int8(target + 16, b * broadcast(inverse));
    scale[at] = group_scale;
    sum[at] = group_scale * static_cast<float>(first + second);
    minus_sum[2 * at] = -first;
    minus_sum[2 * at + 1] = -second;
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
