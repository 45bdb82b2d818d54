// Weights that are read from memory once: asked for ahead, into the second cache. The first has too few lines in flight to
// stream, and while they are under way a row's arithmetic waits.
#pragma once

#include <cstdint>

#include "simd/simd.h"

namespace hr {

constexpr int64_t kPrefetchBytes = 8192;  // ahead of what is computed

HR_INLINE void prefetch_lines(const uint8_t* p, int64_t bytes) {
#pragma GCC unroll 8
  for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(p + line, 0, 2);
}

}  // namespace hr
