// The products of attention_products.h in AMX tiles, for many rows that share their keys, in bf16.
//
// A tile register reads keys and values as kv_layout.h has them: 16 vectors of keys are 32 dimensions of 16 positions, and 16
// vectors of values are 16 dimensions of 32 positions. The latter are of two pieces, which are copied side by side. Products are
// added up in another order than attention_products.h has.
#pragma once

#include <cstdint>
#include <cstring>

#include "attention/attention_products.h"
#include "attention/attention_softmax.h"
#include "linear/amx.h"

namespace hr {


#if HR_AMX

// Scores of rows with the keys of pieces, for rows that are rounded up to 16.
inline void tile_scores(const Bf16* q, int num_rows, const Bf16* const* keys, int num_pieces, int dim, float* scores) {
  const AmxOperand rows{q, kTile * dim * 2, 64, dim * 2};
  for (int v = 0; v < num_pieces; v += 2) {
    const bool two = num_pieces - v > 1;
    const int64_t distance = two ? reinterpret_cast<const char*>(keys[v + 1]) - reinterpret_cast<const char*>(keys[v]) : 0;
    amx_tile_of<false>(num_rows > kTile, two)(rows, {keys[v], distance, kAmxTileBytes, 64}, dim / 32, scores + v * kTile, kChunk * 4);
  }
}

// Adds the rows' weights times values to `out`, which is rescaled before. weights: bf16 [rows][2 * kChunk], of which kChunk
// count. values: of pieces, joined.
inline void add_tile_values(Bf16* weights, int num_rows, const Bf16* values, int num_pieces, int value_dim, const float* rescale,
                            float* out) {
  const int64_t row = value_dim * 4;  // bytes: of a row of a tile of values, and of sums
  for (int r = 0; r < num_rows; ++r) {
    if (num_pieces % 2) std::memset(weights + r * 2 * kChunk + num_pieces * kTile, 0, kTile * sizeof(Bf16));
    if (rescale[r] != 1.0f)
      for (int d = 0; d < value_dim; d += 16) store(out + r * value_dim + d, broadcast(rescale[r]) * load<F32x16>(out + r * value_dim + d));
  }
  const AmxOperand rows{weights, kTile * kChunk * 4, 64, kChunk * 4};
  for (int d = 0; d < value_dim; d += 32)
    amx_tile_of(num_rows > kTile, value_dim - d > 16)(rows, {values + d * 2, 64, kTile * row, row}, (num_pieces + 1) / 2, out + d, row);
}

#endif

// Whether num_rows rows of one item are multiplied in tiles.
template <class Element>
bool fits_tiles(const Problem& p, int num_rows) {
  return HR_AMX && sizeof(Element) == 2 && num_rows >= kTile && p.head_dim % 32 == 0 && allows_amx;
}

// Makes the values of pieces, some of which may be there already, lie side by side at `copy` for products in tiles, with zeros
// behind an odd one.
template <class Element>
void join_pieces(const Element* const* values, int num_pieces, int value_dim, Element* copy) {
  const int64_t size = kTile * value_dim;
  for (int i = 0; i < num_pieces; ++i)
    if (values[i] != copy + i * size) std::memcpy(copy + i * size, values[i], size * sizeof(Element));
  if (num_pieces % 2) std::memset(copy + num_pieces * size, 0, size * sizeof(Element));
}

template <class Element>
void multiply_keys([[maybe_unused]] bool in_tiles, const Element* q, int num_rows, const Element* const* keys, int num_pieces, int dim,
                   float* scores, Lookahead& ahead) {
#if HR_AMX
  if constexpr (sizeof(Element) == 2) {
    if (in_tiles) return tile_scores(q, num_rows, keys, num_pieces, dim, scores);
  }
#endif
  all_scores(q, num_rows, keys, num_pieces, dim, scores, ahead);
}

// joined: what join_pieces() copied, if the products are in tiles.
template <class Element>
void multiply_values([[maybe_unused]] bool in_tiles, Element* weights, int num_rows, const Element* const* values,
                     [[maybe_unused]] const Element* joined, int num_pieces, int value_dim, const float* rescale, float* out,
                     Lookahead& ahead) {
#if HR_AMX
  if constexpr (sizeof(Element) == 2) {
    if (in_tiles) return add_tile_values(weights, num_rows, joined, num_pieces, value_dim, rescale, out);
  }
#endif
  add_values(weights, num_rows, values, num_pieces, value_dim, rescale, out, ahead);
}

}  // namespace hr
