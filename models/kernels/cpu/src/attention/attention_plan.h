// The work of a step of attention, cut into items: rows of one sequence and KV head, and positions that they see.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "attention/attention_softmax.h"
#include "attention/kv_layout.h"
#include "linear/amx.h"
#include "runtime/parallel.h"

namespace hr {

constexpr int kRowTile = HR_AMX ? 32 : 24;  // rows that are multiplied together, and of items of one segment
// Rows of an item, at most. A long context costs its reading, which they share; but every thread needs an item.
constexpr int kMostRows = 4 * kRowTile;
constexpr int kSegment = 512;  // positions; of whole chunks
static_assert(kSegment % kChunk == 0);

struct Item {
  int seq, kv_head, first_row, num_rows;
  int begin, end;       // positions
  int split, num_splits;
  int64_t partial;      // index of the tile's first partial result, if split
  int tile;             // index of the tile's counter, if split
  bool is_chosen;       // begin and end are indices of the list of positions that the item's query sees
};

inline int query_position(const Problem& p, int seq, int query) {
  return p.seq_lens[seq] - (p.cu_seqlens_q[seq + 1] - p.cu_seqlens_q[seq]) + query;
}

// All work items of a step.
struct Plan {
  std::vector<Item>& items;
  int most_rows = kRowTile;  // of an item that walks over all of its context
  int64_t num_partials = 0;
  int num_split_tiles = 0;

  // Adds rows of one tile, whose queries see positions (or chosen ones) begin .. end - 1; can_split: an item for each segment.
  void add(const Problem& p, int seq, int first, int rows, int begin, int end, bool can_split, bool is_chosen) {
    const int first_segment = begin / kSegment;
    const int splits = can_split ? std::max(1, (end - 1) / kSegment - first_segment + 1) : 1;
    for (int head = 0; head < p.num_kv_heads; ++head) {
      for (int i = 0; i < splits; ++i) {
        const int segment = (first_segment + i) * kSegment;
        items.push_back({seq, head, first, rows, std::max(begin, segment), splits == 1 ? end : std::min(end, segment + kSegment), i,
                         splits, num_partials, num_split_tiles, is_chosen});
      }
      if (splits > 1) {
        num_partials += splits;
        num_split_tiles += 1;
      }
    }
  }

  // Adds rows first .. end_row - 1 of a sequence, those with the longest context first.
  void add_rows(const Problem& p, int seq, int first, int end_row, bool can_split) {
    const int group = p.num_heads / p.num_kv_heads, most = can_split ? kRowTile : most_rows;
    for (int row = first + (end_row - first - 1) / most * most; row >= first; row -= most) {
      const int rows = std::min(most, end_row - row);
      const int end = p.seen_end(query_position(p, seq, (row + rows - 1) / group), p.seq_lens[seq]);
      const int seen = p.first_seen(query_position(p, seq, row / group));
      // as far back as makes whole tiles, but within the block: earlier ones may be given back
      add(p, seq, row, rows, std::max(seen / kTile * kTile, seen / p.block_size * p.block_size), end, can_split, false);
    }
  }
};

inline void plan(const Problem& p, Plan& plan) {
  plan.items.clear();
  constexpr int kItemsPerThread = 4;
  const int64_t rows = static_cast<int64_t>(p.cu_seqlens_q[p.num_seqs]) * p.num_heads, items = kItemsPerThread * num_threads();
  plan.most_rows = static_cast<int>(std::clamp<int64_t>(rows / items / kRowTile * kRowTile, kRowTile, kMostRows));
  const int group = p.num_heads / p.num_kv_heads;
  int64_t ahead = 0;  // positions of this sequence and of those behind it
  for (int seq = 0; seq < p.num_seqs; ++seq) ahead += p.seq_lens[seq];
  for (int seq = 0; seq < p.num_seqs; ahead -= p.seq_lens[seq++]) {
    const int num_queries = p.cu_seqlens_q[seq + 1] - p.cu_seqlens_q[seq], num_rows = num_queries * group;
    if (num_rows == 0) continue;
    // An item of the whole context saves the preparation of its rows for each segment, where enough is behind it that no thread
    // waits for it in the end.
    const bool is_split = ahead * p.num_kv_heads < 2 * num_threads() * static_cast<int64_t>(p.seq_lens[seq]);
    const bool can_split = is_split && num_rows <= std::max(kRowTile, group);
    if (!p.chosen) {
      plan.add_rows(p, seq, 0, num_rows, can_split);
      continue;
    }
    for (int query = num_queries - 1; query >= 0; --query) {  // a tile has rows of one query
      const int first = query * group, end = first + group;
      if (p.chosen[(p.cu_seqlens_q[seq] + query) * static_cast<int64_t>(p.topk)] < 0) {
        plan.add_rows(p, seq, first, end, can_split);
        continue;
      }
      for (int row = first; row < end; row += kRowTile)
        plan.add(p, seq, row, std::min(kRowTile, end - row), 0, p.topk, can_split, true);
    }
  }
}

// Rows of an item that are multiplied together, and the chunk's pieces from `first_piece` on that any of them sees.
struct TileRows {
  int first, count, first_piece, num_pieces;
  bool see_all;  // every lane of these pieces

  TileRows(const Problem& p, const Item& item, const std::vector<Piece>& pieces, int first_row)
      : first(first_row), count(std::min(kRowTile, item.num_rows - first_row)) {
    const int group = p.num_heads / p.num_kv_heads;
    const int head = query_position(p, item.seq, (item.first_row + first) / group);
    const int last = query_position(p, item.seq, (item.first_row + first + count - 1) / group);
    const int begin = p.first_seen(head), end = p.seen_end(last, p.seq_lens[item.seq]);
    int from = 0, to = static_cast<int>(pieces.size());
    while (from < to && pieces[from].position + pieces[from].count <= begin) ++from;
    while (to > from && pieces[to - 1].position >= end) --to;
    first_piece = from / 4 * 4;  // what a register holds of values
    num_pieces = to > from ? to - first_piece : 0;
    const auto is_whole = [](const Piece& piece) { return piece.count == kTile; };
    see_all = num_pieces > 0 && std::all_of(pieces.begin() + first_piece, pieces.begin() + to, is_whole) &&
              pieces[first_piece].position >= p.first_seen(last) &&
              pieces[to - 1].position + kTile <= p.seen_end(head, p.seq_lens[item.seq]);
  }
};

}  // namespace hr
