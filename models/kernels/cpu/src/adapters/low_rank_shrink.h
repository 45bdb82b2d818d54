// The first half of an adapter: ranks [rank] bf16 = a x.
//
// A row's columns are cut into parts of kPartPairs pairs. A part is one chain of dot products, and parts are added up one after
// the other, so that a row's ranks do not depend on how many rows are computed at a time. With a single row several parts are
// computed at once, since in one chain each product would wait for the one before.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "adapters/low_rank.h"
#include "dense/dense_products.h"

namespace hr {

constexpr int64_t kPartPairs = 64;  // 4 KiB of a block's weights
constexpr int kSpan = 4;            // blocks of a register tile
constexpr int kSpareRows = 12;      // a register tile may read this far beyond the last row
constexpr int kMostSharedBf16 = kDenseSharedRows[sizeof(kDenseSharedRows) / sizeof(int) - 1];

inline int64_t num_parts(int64_t columns) { return (columns / 2 + kPartPairs - 1) / kPartPairs; }

// f(C) with the number of blocks as an integral constant, at most kSpan
template <class Function>
HR_INLINE void with_blocks(int64_t blocks, const Function& f) {
  switch (blocks) {
    case 1: return f(std::integral_constant<int, 1>{});
    case 2: return f(std::integral_constant<int, 2>{});
    case 3: return f(std::integral_constant<int, 3>{});
    default: return f(std::integral_constant<int, kSpan>{});
  }
}

// ---- few rows

// sums[p][r] = part p of row r, of P parts of num_pairs pairs
template <int R, int P>
__attribute__((noinline)) void multiply_parts(const uint8_t* block, const Bf16* rows, int64_t row_stride, int64_t num_pairs,
                                              F32x16 (*sums)[kMostSharedBf16]) {
  F32x16 tile[P][R][1] = {};
  for (int64_t k = 0; k < num_pairs; ++k)
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p)
      multiply_add<R, 1>(block + 64 * (p * kPartPairs + k), 0, rows + 2 * (p * kPartPairs + k), row_stride, 1, tile[p]);
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sums[p][r] = tile[p][r][0];
}

// put(row, part, sums) of `count` rows, at most R, and of all parts of num_pairs pairs
template <int R, class Put>
void parts_of_rows(const uint8_t* block, const Bf16* rows, int64_t row_stride, int64_t num_pairs, int count, const Put& put) {
  constexpr int kAtOnce = R == 1 ? 4 : R == 2 ? 2 : 1;
  F32x16 sums[kAtOnce][kMostSharedBf16];
  const int64_t whole = num_pairs / kPartPairs;
  int64_t part = 0;
  const auto put_parts = [&](int parts) {
    for (int p = 0; p < parts; ++p)
      for (int r = 0; r < count; ++r) put(r, part + p, sums[p][r]);
    part += parts;
  };
  const auto multiply = [&](auto parts, int64_t pairs) {
    multiply_parts<R, parts>(block + 64 * part * kPartPairs, rows + 2 * part * kPartPairs, row_stride, pairs, sums);
    put_parts(parts);
  };
  while (part + kAtOnce <= whole) multiply(std::integral_constant<int, kAtOnce>{}, kPartPairs);
  if constexpr (kAtOnce == 4)
    if (part + 2 <= whole) multiply(std::integral_constant<int, 2>{}, kPartPairs);
  while (part * kPartPairs < num_pairs)
    multiply(std::integral_constant<int, 1>{}, std::min(kPartPairs, num_pairs - part * kPartPairs));
}

// The same with a kernel for at least as many rows.
template <int kChoice = 0, class Put>
void parts_of_few(const uint8_t* block, const Bf16* rows, int64_t row_stride, int64_t num_pairs, int count, const Put& put) {
  constexpr int R = kDenseSharedRows[kChoice];
  if constexpr (R < kMostSharedBf16) {
    if (count > R) return parts_of_few<kChoice + 1>(block, rows, row_stride, num_pairs, count, put);
  }
  parts_of_rows<R>(block, rows, row_stride, num_pairs, count, put);
}

// ---- many rows

// sums [R][C blocks] += one part
template <int R, int C>
__attribute__((noinline)) void add_part(const uint8_t* block, int64_t block_stride, const Bf16* rows, int64_t row_stride,
                                        int64_t num_pairs, float* sums, int64_t sums_stride) {
  F32x16 tile[R][C] = {};
  multiply_add<R, C>(block, block_stride, rows, row_stride, num_pairs, tile);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      float* target = sums + r * sums_stride + c * kBlockRows;
      store(target, load<F32x16>(target) + tile[r][c]);
    }
}

// With a single block a tile has more rows, or its chains would be too few.
template <int kBlocks>
constexpr int kShrinkTile = kBlocks == 1 ? 2 * kDenseTileRows : kDenseTileRows;

// ranks [num_rows][rank_stride] = a times the prepared rows [num_rows + kSpareRows][columns]
inline void shrink_rows(const hr_layer_adapter& adapter, const Bf16* rows, int64_t columns, int num_rows, Bf16* ranks,
                        int64_t rank_stride, std::vector<float>& memory) {
  const int64_t num_ranks = static_cast<int64_t>(adapter.num_blocks) * kBlockRows, stride = low_rank_bytes(columns);
  memory.assign((num_rows + kSpareRows) * num_ranks, 0.0f);
  float* sums = memory.data();
  for (int64_t c = 0; c < adapter.num_blocks; c += kSpan)
    with_blocks(adapter.num_blocks - c, [&](auto blocks) {
      constexpr int kTile = kShrinkTile<blocks>;
      for (int64_t k = 0; k < columns / 2; k += kPartPairs)
        for (int r = 0; r < num_rows; r += kTile) {
          const auto add = num_rows - r > kTile / 2 ? add_part<kTile, blocks> : add_part<kTile / 2, blocks>;
          add(adapter.a + c * stride + 64 * k, stride, rows + r * columns + 2 * k, columns,
              std::min(kPartPairs, columns / 2 - k), sums + r * num_ranks + c * kBlockRows, num_ranks);
        }
    });
  for (int r = 0; r < num_rows; ++r)
    for (int64_t k = 0; k < num_ranks; k += kBlockRows)
      store_bf16(ranks + r * rank_stride + k, load<F32x16>(sums + r * num_ranks + k));
}

}  // namespace hr
