// The scores that keys would add if their center had stayed in them.
//
// Keys of 4 bits are stored without a center b of their head, which is subtracted before they are rotated (rope_kv_write.cpp).
// So a score at position p lacks q . R(p) b. With the pairs (x, y) of q, (u, v) of b, and the angle t of position 1, that is
//
//   constant + sum over pairs of A cos(p t) + B sin(p t),   A = x u + y v,   B = y u - x v,
//
// where dimensions that are not rotated make the constant. A row's A and B are turned to the beginning of each chunk,
//
//   p = base + o,   A' = A cos(base t) + B sin(base t),   B' = B cos(base t) - A sin(base t),
//
// and their product with a table of cos(o t) and sin(o t), which all heads and chunks share, gives the scores. Most pairs turn
// little in a chunk. Their cos(o t) and sin(o t) are sums of kSlowTerms polynomials of o, to the last bits of fp32, so that a
// row's A' and B' of all of them become factors of these few. Position 0, whose key is unlike the others in many models, has a
// center of its own.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention/attention_plan.h"
#include "attention/attention_products.h"
#include "attention/attention_softmax.h"
#include "attention/kv_codes.h"
#include "simd/register_tile.h"
#include "simd/simd.h"

namespace hr {

constexpr int kOffsets = kChunk + 2 * kTile;  // columns of a table of offsets; column kTile is of offset 0
constexpr int kSlowTerms = 16;

struct Ones {
  alignas(64) float values[kChunk];
  constexpr Ones() : values{} {
    for (float& value : values) value = 1.0f;
  }
};
inline constexpr Ones kOnes{};

// What the centers add to the scores of an item's rows. Constants and factors are [rows], turns [rows, rotary_dim]: A, then B.
struct CenterScores {
  alignas(64) float turns[kMostRows * kMaxCodedDim], moved[kRowTile * kMaxCodedDim], terms[kRowTile * kSlowTerms];
  float constants[kMostRows], firsts[kMostRows];  // firsts: of position 0

  // Reads row r, whose query is q. sees_first: whether position 0 is among those of the item.
  template <class Element>
  void set_row(const Problem& p, int kv_head, int r, const Element* q, bool sees_first) {
    const int rotary_dim = p.rotary_dim, half = rotary_dim / 2;
    const float* first = p.key_centers + kv_head * p.head_dim;
    const float* center = first + p.num_kv_heads * p.head_dim;
    float* turn = turns + r * rotary_dim;
    int i = 0;
    for (; i + 16 <= half; i += 16) {
      const F32x16 x = load_lanes(q + i), y = load_lanes(q + half + i), u = load<F32x16>(center + i), v = load<F32x16>(center + half + i);
      store(turn + i, fma(x, u, y * v));
      store(turn + half + i, y * u - x * v);
    }
    for (; i < half; ++i) {
      const float x = to_float(q[i]), y = to_float(q[i + half]), u = center[i], v = center[i + half];
      turn[i] = x * u + y * v;
      turn[i + half] = y * u - x * v;
    }
    const float factor = p.rotary_bases[0];  // of rotated keys: cos(0) times it
    float constant = 0, at_first = 0;
    for (int d = 0; d < p.head_dim && sees_first; ++d)
      at_first += to_float(q[d]) * first[d] * (d < rotary_dim ? factor : 1.0f);
    for (int d = rotary_dim; d < p.head_dim; ++d) constant += to_float(q[d]) * center[d];
    constants[r] = constant;
    firsts[r] = at_first;
  }

  // Turns the scores of rows first_row .. from products with codes to scores of keys, which need no factors any more (kOnes).
  void add(const Problem& p, int first_row, int num_rows, const Piece* pieces, int num_pieces, const float* key_scales,
           float* scores) {
    const int rotary_dim = p.rotary_dim;
    const int base = pieces[0].position / kChunk * kChunk;
    turn_to(p.rotary_bases + base / kChunk * static_cast<int64_t>(rotary_dim), first_row, num_rows, rotary_dim);
    for (int r = 0; r < num_rows && p.slow_terms; r += kProductRows)
      with_constant<kProductRows>(std::min(kProductRows, num_rows - r), [&](auto rows) { sum_terms<rows()>(p, r); });
    const float* columns[kPieces];
    for (int i = 0; i < num_pieces; ++i) columns[i] = p.rotary_offsets + kTile + pieces[i].position - pieces[i].first_lane - base;
    const bool has_first = pieces[0].position == 0;
    const int lane = pieces[0].first_lane;
    float at_first[kRowTile];
    for (int r = 0; r < num_rows && has_first; ++r) at_first[r] = scores[r * kChunk + lane] * key_scales[lane] + firsts[first_row + r];
    for (int v = 0; v < num_pieces; v += kProductVectors)
      with_constant<kProductVectors>(std::min(kProductVectors, num_pieces - v), [&](auto cols) {
        for (int r = 0; r < num_rows; r += kProductRows)
          with_constant<kProductRows>(std::min(kProductRows, num_rows - r), [&](auto rows) {
            add_block<rows(), cols()>(p, r, constants + first_row + r, columns + v, key_scales + v * kTile, scores + r * kChunk + v * kTile);
          });
      });
    for (int r = 0; r < num_rows && has_first; ++r) scores[r * kChunk + lane] = at_first[r];
  }

 private:
  void turn_to(const float* base, int first_row, int num_rows, int rotary_dim) {
    const int half = rotary_dim / 2;
    for (int r = 0; r < num_rows; ++r) {
      const float* turn = turns + (first_row + r) * rotary_dim;
      float* to = moved + r * rotary_dim;
      int i = 0;
      for (; i + 16 <= half; i += 16) {
        const F32x16 c = load<F32x16>(base + i), s = load<F32x16>(base + half + i);
        const F32x16 a = load<F32x16>(turn + i), b = load<F32x16>(turn + half + i);
        store(to + i, a * c + b * s);
        store(to + half + i, b * c - a * s);
      }
      for (; i < half; ++i) {
        to[i] = turn[i] * base[i] + turn[half + i] * base[half + i];
        to[half + i] = turn[half + i] * base[i] - turn[i] * base[half + i];
      }
    }
  }

  template <int R>
  void sum_terms(const Problem& p, int row) {
    const int half = p.rotary_dim / 2, slow = half - p.fast_pairs;
    F32x16 c[R][1] = {};
    for (int part = 0; part < 2; ++part)
      product<float, R, 1>(
          reinterpret_cast<const char*>(moved + row * p.rotary_dim + part * half + p.fast_pairs), p.rotary_dim * 4, slow,
          [&](int, int k) { return p.slow_terms + (part * slow + k) * kSlowTerms; }, c);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) store(terms + (row + r) * kSlowTerms, c[r][0]);
  }

  template <int R, int C>
  void add_block(const Problem& p, int row, const float* constant, const float* const* columns, const float* key_scales, float* scores) const {
    F32x16 c[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < C; ++v) c[r][v] = broadcast(constant[r]);
    int first = 0;  // row of the table
    const auto add_columns = [&](const float* factors, int stride, int count) {
      product<float, R, C>(
          reinterpret_cast<const char*>(factors), stride * 4, count, [&](int v, int k) { return columns[v] + (first + k) * kOffsets; }, c);
      first += count;
    };
    add_columns(moved + row * p.rotary_dim, p.rotary_dim, p.fast_pairs);
    add_columns(moved + row * p.rotary_dim + p.rotary_dim / 2, p.rotary_dim, p.fast_pairs);
    if (p.slow_terms) add_columns(terms + row * kSlowTerms, kSlowTerms, kSlowTerms);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < C; ++v) {
        float* target = scores + r * kChunk + v * kTile;
        store(target, fma(load<F32x16>(target), load<F32x16>(key_scales + v * kTile), c[r][v]));
      }
  }
};

}  // namespace hr
