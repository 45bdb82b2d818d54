// Reads memory once, in order, on all threads, and only adds: no kernel that streams weights can be faster.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>

#include "runtime/parallel.h"
#include "simd/simd.h"
#include "simd/streaming.h"

using namespace hr;

namespace {

using Words = uint64_t __attribute__((vector_size(64)));

constexpr int64_t kChunkWords = 32768;    // 256 KiB, as the linear kernels take
constexpr int64_t kStep = sizeof(Words) / sizeof(uint64_t);

uint64_t sum_chunk(const uint64_t* words, int64_t count) {
  Words sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kStep <= count; i += 4 * kStep)
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s) {
      const uint64_t* at = words + i + s * kStep;
      prefetch_lines(reinterpret_cast<const uint8_t*>(at) + kPrefetchBytes, 64);
      Words read;
      std::memcpy(&read, at, sizeof read);
      sums[s] += read;
    }
  uint64_t total = 0;
  for (const Words& sum : sums)
    for (int lane = 0; lane < kStep; ++lane) total += sum[lane];
  for (; i < count; ++i) total += words[i];
  return total;
}

}  // namespace

// The sum of `count` words, modulo 2^64.
HR_API int64_t hr_sum_words(const uint64_t* words, int64_t count) {
  std::atomic<uint64_t> total{0};
  parallel_for((count + kChunkWords - 1) / kChunkWords, [&](int64_t chunk) {
    const int64_t first = chunk * kChunkWords;
    total.fetch_add(sum_chunk(words + first, std::min(kChunkWords, count - first)), std::memory_order_relaxed);
  });
  return static_cast<int64_t>(total.load());
}
