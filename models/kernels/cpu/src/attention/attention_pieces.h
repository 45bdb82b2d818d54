// Where the keys and values of a chunk's pieces lie, or what they are copied to.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "attention/attention_plan.h"
#include "attention/attention_products.h"
#include "attention/attention_softmax.h"
#include "attention/kv_codes.h"
#include "attention/kv_layout.h"

namespace hr {

// Copies the keys of the positions that an indexer chose, from the list's index `begin` on, to pieces of their own, whose
// positions are indices of the list; fills `pieces` and returns the next index.
template <class Element>
int gather_pieces(const Problem& p, const Item& item, const int32_t* table, int begin, Element* copies,
                  std::vector<Piece>& pieces) {
  const int64_t token = p.cu_seqlens_q[item.seq] + item.first_row / (p.num_heads / p.num_kv_heads);
  const int32_t* chosen = p.chosen + token * p.topk;
  pieces.clear();
  for (; begin < item.end && pieces.size() < kPieces; copies += kTile * p.head_dim) {
    const int count = std::min(kTile, item.end - begin);
    for (int lane = 0; lane < count; ++lane) {
      const int position = chosen[begin + lane];
      const int64_t slot = static_cast<int64_t>(table[position / p.block_size]) * p.block_size + position % p.block_size;
      const Element* keys = static_cast<const Element*>(p.kv) +
                            keys_offset(slot / kTile, p.num_kv_heads, item.kv_head, p.stored_dim());
      const int from = static_cast<int>(slot % kTile);
      for (int d = 0; d < p.head_dim; d += kPack<Element>)
        std::memcpy(copies + key_index<Element>(lane, d), keys + key_index<Element>(from, d), 4);  // one pack
    }
    pieces.push_back({0, begin, 0, count});
    begin += count;
  }
  return begin;
}

// The values of a piece, whose keys are given, in the layout of values: where they are stored, or copied to `copy`.
template <class Element>
const Element* piece_values(const Problem& p, const Piece& piece, const Element* keys, Element* copy) {
  const int dim = p.value_dim;
  const Element* stored = keys + kTile * (p.has_values() ? p.head_dim : p.values_from);
  if (piece.count == kTile) {
    if (p.has_values()) return stored;
    keys_to_values(stored, dim, copy);
    return copy;
  }
  // zeros where no position is: memory that none was written to may hold NaN, and 0 * NaN is NaN
  std::memset(copy, 0, sizeof(Element) * kTile * dim);
  for (int lane = piece.first_lane; lane < piece.first_lane + piece.count; ++lane)
    for (int d = 0; d < dim; ++d) {
      const int at = value_index<Element>(lane, d, dim);
      copy[at] = stored[p.has_values() ? at : key_index<Element>(lane, d)];
    }
  return copy;
}

// The size of the values that are stored beside the keys.
inline int stored_values(const Problem& p) { return p.has_values() ? p.value_dim : 0; }

// The codes of a piece's keys, which its values and scales follow.
inline const uint8_t* coded_head(const Problem& p, const Item& item, const Piece& piece) {
  const int64_t head = piece.tile * p.num_kv_heads + item.kv_head;
  return static_cast<const uint8_t*>(p.kv) + head * coded_head_bytes(p.code, p.head_dim, stored_values(p));
}

// The same in 8 bits: as stored, or, for 4 bits, copied to `copy`.
inline const uint8_t* bytes_of_head(const Problem& p, const uint8_t* head, uint8_t* copy) {
  if (p.code != kInt4) return head;
  unpack_head(head, p.head_dim, stored_values(p), copy);
  return copy;
}

// Makes `ahead` fetch the chunk at `begin` of an item or, behind its end, the first chunk of `next` (null: none), in num_calls
// calls.
template <class Element>
void begin_lookahead(const Problem& p, const Item& item, int begin, const Item* next, int num_calls, Lookahead& ahead) {
  const int64_t bytes = p.code == kNoCode ? kTile * p.stored_dim() * static_cast<int64_t>(sizeof(Element))
                                          : coded_head_bytes(p.code, p.head_dim, stored_values(p));
  ahead.start(bytes, num_calls);
  const bool goes_on = begin < item.end;
  const Item* after = goes_on ? &item : next;
  if (!after || after->is_chosen) return;
  thread_local std::vector<Piece> pieces;
  next_pieces(p.block_size, p.block_tables + after->seq * p.table_stride, goes_on ? begin : after->begin, after->end, pieces);
  for (const Piece& piece : pieces)
    ahead.add(static_cast<const char*>(p.kv) + (piece.tile * p.num_kv_heads + after->kv_head) * bytes);
}

}  // namespace hr
