// The two matrix products of attention over a chunk of the context: rows of queries with keys, and their weights with values.
// A chunk is kPieces pieces of up to kTile positions, whose keys and values lie as kv_layout.h says.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "attention/kv_layout.h"
#include "simd/register_tile.h"
#include "simd/simd.h"

namespace hr {

constexpr int kPieces = 8;
constexpr int kChunk = kPieces * kTile;

// Up to 16 consecutive positions that lie in one tile: lanes first_lane .. first_lane + count - 1.
struct Piece {
  int64_t tile;
  int position, first_lane, count;
};

// Positions begin .. (at most) end - 1 cut where tiles and blocks end; fills `pieces` and returns the next position. A chunk ends
// at a multiple of kChunk, so that whatever walks over a position has the same ones beside it.
inline int next_pieces(int block_size, const int32_t* table, int begin, int end, std::vector<Piece>& pieces) {
  pieces.clear();
  end = std::min(end, (begin / kChunk + 1) * kChunk);
  int block = begin / block_size, offset = begin % block_size;  // the only division: one takes as long as a piece of work
  while (begin < end && pieces.size() < kPieces) {
    const uint64_t slot = static_cast<uint64_t>(table[block]) * block_size + offset;
    const int lane = static_cast<int>(slot % kTile);
    const int count = std::min({kTile - lane, block_size - offset, end - begin});
    pieces.push_back({static_cast<int64_t>(slot / kTile), begin, lane, count});
    begin += count;
    offset += count;
    if (offset < block_size) continue;
    offset = 0;
    ++block;
  }
  return begin;
}

// Memory that the next chunk reads, fetched a few lines at a time between the products of this one. All at once would wait for
// free line buffers.
class Lookahead {
 public:
  // Forgets the heads before. Those to be added have head_bytes each, and are fetched in num_calls calls.
  void start(int64_t head_bytes, int num_calls) {
    num_heads_ = head_ = 0;
    at_ = 0;
    head_bytes_ = head_bytes;
    lines_each_ = kPieces * (head_bytes / 64 + 1) / num_calls + 1;
  }
  void add(const char* head) { heads_[num_heads_++] = head; }
  __attribute__((noinline)) void fetch() {
    for (int64_t n = lines_each_; n > 0 && head_ < num_heads_; --n) {
      __builtin_prefetch(heads_[head_] + at_, 0, 2);
      at_ += 64;
      if (at_ < head_bytes_) continue;
      at_ = 0;
      ++head_;
    }
  }

 private:
  const char* heads_[kPieces];
  int num_heads_ = 0, head_ = 0;
  int64_t head_bytes_ = 0, lines_each_ = 0, at_ = 0;
};

// c[r][v] (+)= sum over k of a[r][k] * b[v][k]; a: rows of 4-byte units; b(v, k): address of 64 bytes
template <class Element, int R, int C, class Address>
HR_INLINE void product(const char* a, int64_t a_stride, int num_k, const Address& b, F32x16 (&c)[R][C]) {
  for (int k = 0; k < num_k; ++k) {
    Bits vectors[C];
#pragma GCC unroll 8
    for (int v = 0; v < C; ++v) vectors[v] = load<Bits>(b(v, k));
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const uint32_t x = load_u32(a + r * a_stride + 4 * k);
#pragma GCC unroll 8
      for (int v = 0; v < C; ++v) c[r][v] = add_product<Element>(c[r][v], x, vectors[v]);
    }
  }
}

template <class Element, int R, int C>
void score_block(const Element* q, const Element* const* keys, int head_dim, float* scores) {
  F32x16 c[R][C] = {};
  product<Element, R, C>(
      reinterpret_cast<const char*>(q), head_dim * sizeof(Element), head_dim / kPack<Element>,
      [&](int v, int k) { return reinterpret_cast<const char*>(keys[v]) + 64 * k; }, c);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < C; ++v) store(scores + r * kChunk + v * kTile, c[r][v]);
}

template <class Element, int R, int C>
void value_block(const Element* weights, const Element* const* values, int num_pieces, int value_dim,
                 const float* rescale, float* out) {
  F32x16 c[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < C; ++v) c[r][v] = broadcast(rescale[r]) * load<F32x16>(out + r * value_dim + v * 16);
  for (int piece = 0; piece < num_pieces; ++piece) {
    const char* base = reinterpret_cast<const char*>(values[piece]);
    product<Element, R, C>(
        reinterpret_cast<const char*>(weights + piece * kTile), kChunk * 4, kTile / kPack<Element>,
        [&](int v, int k) { return base + (static_cast<int64_t>(k) * value_dim + v * 16) * 4; }, c);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < C; ++v) store(out + r * value_dim + v * 16, c[r][v]);
}

// f(std::integral_constant<int, n>) for the run-time n in 1..kMax
template <int kMax, class Function>
HR_INLINE void with_constant(int n, const Function& f) {
  if constexpr (kMax > 1) {
    if (n < kMax) return with_constant<kMax - 1>(n, f);
  }
  f(std::integral_constant<int, kMax>{});
}

template <class Element>
void all_scores(const Element* q, int num_rows, const Element* const* keys, int num_pieces, int head_dim, float* scores,
                Lookahead& ahead) {
  for (int v = 0; v < num_pieces; v += kProductVectors)
    with_constant<kProductVectors>(std::min(kProductVectors, num_pieces - v), [&](auto cols) {
      for (int r = 0; r < num_rows; r += kProductRows) {
        ahead.fetch();
        with_constant<kProductRows>(std::min(kProductRows, num_rows - r), [&](auto rows) {
          score_block<Element, rows(), cols()>(q + r * head_dim, keys + v, head_dim, scores + r * kChunk + v * kTile);
        });
      }
    });
}

template <class Element>
void add_values(const Element* weights, int num_rows, const Element* const* values, int num_pieces, int value_dim,
                const float* rescale, float* out, Lookahead& ahead) {
  const int num_vectors = value_dim / 16;
  const Element* shifted[kPieces];
  for (int v = 0; v < num_vectors; v += kProductVectors) {
    for (int i = 0; i < num_pieces; ++i) shifted[i] = values[i] + v * 16 * kPack<Element>;
    with_constant<kProductVectors>(std::min(kProductVectors, num_vectors - v), [&](auto cols) {
      for (int r = 0; r < num_rows; r += kProductRows) {
        ahead.fetch();
        with_constant<kProductRows>(std::min(kProductRows, num_rows - r), [&](auto rows) {
          value_block<Element, rows(), cols()>(weights + r * kChunk * kPack<Element>, shifted, num_pieces, value_dim,
                                               rescale + r, out + r * value_dim + v * 16);
        });
      }
    });
  }
}

}  // namespace hr
