// How keys and values lie in a layer's KV tensor; shared by the attention kernel and the kernel that writes.
//
// A slot (block * block_size + offset) belongs to tile slot / 16, lane slot % 16; the layout does not depend on the
// block size. Per tile and KV head there are 16 * D elements of keys, then 16 * D of values:
//
//   tensor  [tiles, K, 2, 16 * D]
//   keys    [D / pack][16 lanes][pack]     one 64-byte vector = `pack` dimensions of 16 positions
//   values  [16 / pack][D][pack]           one 64-byte vector = `pack` positions of 16 dimensions
//
// with pack = 2 for bf16 (what the bf16 dot-product instruction consumes) and 1 for fp32. So scores of 16 positions
// accumulate in the lanes of one vector, sixteen output dimensions in another, and neither product needs a transposition
// or a horizontal sum.
#pragma once

#include <cstdint>

#include "simd.h"

namespace hr {

constexpr int kTile = 16;

template <class Element>
constexpr int kPack = 4 / sizeof(Element);

inline int64_t keys_offset(int64_t tile, int num_kv_heads, int head, int head_dim) {
  return (tile * num_kv_heads + head) * 2 * kTile * head_dim;
}

template <class Element>
HR_INLINE int key_index(int lane, int dim) {
  return (dim / kPack<Element> * kTile + lane) * kPack<Element> + dim % kPack<Element>;
}

template <class Element>
HR_INLINE int value_index(int lane, int dim, int head_dim) {
  return (lane / kPack<Element> * head_dim + dim) * kPack<Element> + lane % kPack<Element>;
}

}  // namespace hr
