// Rows times vectors of a product whose sums fit into the registers, beside the vectors that a step multiplies.
#pragma once

namespace hr {

#if defined(__AVX512F__)
constexpr int kProductRows = 6, kProductVectors = 4;
#elif defined(__AVX2__)
constexpr int kProductRows = 2, kProductVectors = 2;
#elif defined(__aarch64__)
constexpr int kProductRows = 4, kProductVectors = 1;
#else
constexpr int kProductRows = 2, kProductVectors = 1;
#endif

}  // namespace hr
