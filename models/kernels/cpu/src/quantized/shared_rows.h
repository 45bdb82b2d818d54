// Few rows: how many of them share one unpacking of the weights; limited by the accumulators that fit into the registers.
#pragma once

#include <cstdint>
#include <type_traits>

#include "simd/simd.h"

namespace hr {

#if defined(__AVX512F__)
constexpr int kSharedRows[] = {1, 2, 3, 4, 6, 8};
#else
constexpr int kSharedRows[] = {1, 2};
#endif
constexpr int kMostShared = kSharedRows[sizeof(kSharedRows) / sizeof(int) - 1];

// f(R) with the smallest number of shared rows that is at least `count`, as an integral constant.
template <int kChoice = 0, class Function>
HR_INLINE void with_shared_rows(int64_t count, const Function& f) {
  constexpr int R = kSharedRows[kChoice];
  if constexpr (R < kMostShared) {
    if (count > R) return with_shared_rows<kChoice + 1>(count, f);
  }
  f(std::integral_constant<int, R>{});
}

// The rows that the kernel computes for those of `rows` after the last whole kMostShared.
inline int last_shared_rows(int64_t rows) {
  int last = 0;
  with_shared_rows((rows - 1) % kMostShared + 1, [&](auto shared) { last = shared; });
  return last;
}

}  // namespace hr
