// What attention computes, and its softmax over a chunk of the context.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "attention/attention_products.h"
#include "attention/kv_layout.h"
#include "simd/simd.h"

namespace hr {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLog2e = 1.44269504088896341f;

struct Problem {
  const void* q;
  void* out;
  const void* kv;
  const int32_t* cu_seqlens_q;
  const int32_t* seq_lens;
  const int32_t* block_tables;
  const float* alibi_slopes;  // [H] or null
  const float* sinks;         // [H] or null
  const float* distance_bias;  // [H, bias_stride] or null; column bias_zero is of distance 0, with a margin of 16 on both sides
  const float* key_centers;  // [2, K, D] or null: of position 0, and of the others (attention_center.h)
  const float* rotary_bases;    // [n, rotary_dim]: cos of position 128 n, then sin; both times the factor of rotated keys
  const float* rotary_offsets;  // [2 * fast_pairs, kOffsets]: cos of positions -16 .. 143, then sin; polynomials follow if
  const float* slow_terms;      // [rotary_dim - 2 * fast_pairs, kSlowTerms] is not null: what these make cos and sin of
  const int32_t* chosen;  // [T, topk] or null: positions that a query sees, ascending; first -1: all
  int64_t q_stride;           // elements between rows of q
  int64_t table_stride, bias_stride, bias_zero;
  int num_seqs, num_heads, num_kv_heads, head_dim, value_dim, block_size;
  int values_from;  // -1: values are stored beside the keys
  int topk;         // of `chosen`
  int code;         // KvCode of the keys and values
  int rotary_dim, fast_pairs;  // of the centers
  int window, chunk;  // 0: none
  bool is_causal;
  float value_scale, scale, softcap;  // softcap 0: none
  bool has_bias() const { return alibi_slopes || distance_bias; }  // by distance
  bool has_values() const { return values_from < 0; }
  // by a query at `position`
  int first_seen(int position) const {
    if (chunk > 0) return position / chunk * chunk;
    return window > 0 ? std::max(0, position - window + 1) : 0;
  }
  // the first position after those that a query at `position` sees
  int seen_end(int position, int context) const {
    if (is_causal) return position + 1;
    return window > 0 ? std::min(context, position + window) : context;
  }
  int stored_dim() const { return head_dim + (has_values() ? value_dim : 0); }
};

HR_INLINE F32x16 soft_cap(const F32x16& logits, float cap) {
  // cap * tanh(x / cap) = cap * (1 - 2 / (e^(2 x / cap) + 1)); the clamp keeps 2^x in range, tanh is 1 far before it
  const F32x16 limit = broadcast(60.0f);
  F32x16 x = logits * broadcast(2 * kLog2e / cap);
  HR_EACH(x.r[i] = x.r[i] < limit.r[i] ? x.r[i] : limit.r[i])
  const F32x16 one = broadcast(1.0f);
  return broadcast(cap) * (one - broadcast(2.0f) / (exp2(x) + one));
}

// Lanes of a piece that the query at `position` sees: [first, end).
struct Visible {
  int first, end;
  HR_INLINE Visible(const Problem& p, const Piece& piece, int position, int context) {
    end = piece.first_lane + std::min(piece.count, p.seen_end(position, context) - piece.position);
    first = piece.first_lane + std::max(0, p.first_seen(position) - piece.position);
  }
  HR_INLINE bool all() const { return first == 0 && end == kTile; }
};

// A row's logits in base 2, where they are more than scaled scores: soft-capped, or with a bias by distance.
inline F32x16 capped_or_biased(const Problem& p, const Piece& piece, int head, int position, const F32x16& scores) {
  F32x16 s = scores * broadcast(p.softcap > 0 ? p.scale : p.scale * kLog2e);
  if (p.softcap > 0) s = soft_cap(s, p.softcap) * broadcast(kLog2e);
  const int start = piece.position - piece.first_lane - position;  // distance of lane 0
  if (p.alibi_slopes) {
    static constexpr float kLane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const float slope = p.alibi_slopes[head] * kLog2e;
    s = fma(broadcast(slope), load<F32x16>(kLane) + broadcast(static_cast<float>(start)), s);
  }
  if (p.distance_bias)
    s = fma(load<F32x16>(p.distance_bias + head * p.bias_stride + p.bias_zero + start), broadcast(kLog2e), s);
  return s;
}

// rescale: what `out` must be scaled by; largest: of the weights, NaN if one is, where they are for codes, else 0.
struct RowWeights {
  float rescale, largest;
};

// Turns one row's scores of a chunk into weights 2^(score - max) of type Weight, in place. kSeesAll: every lane of kPieces
// pieces, which stay in registers. kIsCoded: scores are multiplied by `key_scales` before, and weights by `value_scales` after;
// both [kChunk].
template <class Element, class Weight, bool kSeesAll, bool kIsCoded>
RowWeights softmax_row(const Problem& p, const Piece* pieces, int num_pieces, int head, int position, int context, float* scores,
                       const float* key_scales, const float* value_scales, float& max_so_far, float& sum) {
  const bool is_plain = p.softcap == 0 && !p.has_bias();  // scaled on the way to weights, which the maximum commutes with
  const float factor = is_plain ? p.scale * kLog2e : 1.0f;
  if constexpr (kSeesAll) num_pieces = kPieces;
  F32x16 in_registers[kPieces], best = broadcast(-kInfinity);
#pragma GCC unroll 8
  for (int i = 0; i < num_pieces; ++i) {
    F32x16 s = load<F32x16>(scores + i * kTile);
    if constexpr (kIsCoded) s = s * load<F32x16>(key_scales + i * kTile);
    if (!is_plain) s = capped_or_biased(p, pieces[i], head, position, s);
    if constexpr (kSeesAll) {
      in_registers[i] = s;
    } else {
      const Visible lanes(p, pieces[i], position, context);
      if (!lanes.all()) s = keep_lanes(s, lanes.first, lanes.end, -kInfinity);
      store(scores + i * kTile, s);
    }
    best = max(best, s);
  }
  const float new_max = std::max(max_so_far, max_lanes(best) * factor);
  const float shift = new_max == -kInfinity ? 0.0f : new_max;  // a row that sees nothing yet: its weights come to nothing
  F32x16 total = broadcast(0.0f);
  I32x16 largest{};
#pragma GCC unroll 8
  for (int i = 0; i < num_pieces; ++i) {
    const F32x16 logits = kSeesAll ? in_registers[i] : load<F32x16>(scores + i * kTile);
    const F32x16 x = fma(logits, broadcast(factor), broadcast(-shift));
    F32x16 w = sizeof(Element) == 2 ? exp2_for_bf16(x) : exp2(x);
    if constexpr (!kSeesAll) {  // 2^-infinity comes out as a tiny number, whose products would depend on what is beside the row
      const Visible lanes(p, pieces[i], position, context);
      if (!lanes.all()) w = keep_lanes(w, lanes.first, lanes.end, 0.0f);
    }
    total = total + w;
    const F32x16 stored = kIsCoded ? w * load<F32x16>(value_scales + i * kTile) : w;
    if constexpr (kIsCoded) largest = max(largest, magnitude_bits(stored));
    store_lanes(reinterpret_cast<Weight*>(scores) + i * kTile, stored);  // never ahead of the scores still to be read
  }
  float rescale = 1.0f;
  if (new_max != max_so_far) rescale = max_so_far == -kInfinity ? 0.0f : std::exp2(max_so_far - shift);
  sum = sum * rescale + sum_lanes(total);
  max_so_far = new_max;
  return {rescale, kIsCoded ? float_of_bits(max_lanes(largest)) : 0.0f};
}

}  // namespace hr
