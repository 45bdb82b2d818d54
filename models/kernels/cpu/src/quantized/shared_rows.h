// Few rows: how many of them share one unpacking of the weights; limited by the accumulators that fit into the registers.
#pragma once

#include <cstdint>
#include <type_traits>

#include "quantized/integer_rows.h"
#include "simd/simd.h"

namespace hr {

#if defined(__AVX512F__)
constexpr int kSharedRows[] = {1, 2, 3, 4, 6, 8};
#elif defined(__aarch64__)
constexpr int kSharedRows[] = {1, 2, 4};
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

// With few rows one chain of dependent dot products would wait for its own results: two chains, of 16 columns each.
template <int R>
constexpr int kSharedChains = R < 4 ? 2 : 1;

// sums [R][kChains] = sum_k (codes[n, k] - kOffset) a[r, k] over one group of columns, in kChains parts. rows [R]: that group of
// the rows.
template <int kOffset, int R, int kChains>
HR_INLINE void multiply_codes(const Bits (&codes)[kVectors], const IntegerGroup* rows, I32x16 (&sums)[R][kChains]) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < kChains; ++c) sums[r][c] = broadcast(rows[r].template minus_sum_of<kChains>(c)) * (kOffset - kByteZero);
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v)
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      I32x16& s = sums[r][v * kChains / kVectors];
      s = dot_bytes(s, codes[v], load_u32(rows[r].codes + 4 * v));
    }
}

// The rows that the kernel computes for those of `rows` after the last whole kMostShared.
inline int last_shared_rows(int64_t rows) {
  int last = 0;
  with_shared_rows((rows - 1) % kMostShared + 1, [&](auto shared) { last = shared; });
  return last;
}

}  // namespace hr
