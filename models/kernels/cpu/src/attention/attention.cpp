// Paged attention for a batch of prefill chunks and decodes alike.
//
//   out[t, h] = value_scale * sum_p softmax_p(cap(scale * q[t, h] . k[p, h / G]) + slope[h] * (p - pos(t)) + bias[h, p - pos(t)]) v[p, h / G]
//
// over positions p <= pos(t), or all of the sequence if attention is not causal, that a window or a chunk leaves visible; G
// query heads share a KV head. A sink is one more logit in the softmax's sum, with no value. v is stored beside k, or it is the end of k: v[p] = k[p, values_from ..].
//
// Tiling. The rows that share keys, (query, head of the group) pairs of one sequence and KV head, are cut into
// items of up to kMostRows rows. An item walks over its context in chunks of kPieces * 16 positions, whose keys and values all of its
// rows share. kRowTile rows at a time, it computes scores of the chunk (a small matrix product, in AMX tiles for many rows:
// attention_tiles.h), the online softmax in base 2, then the product with the values. The context of a sequence with
// a single row tile or a single query (a decode, a verified draft) is split into an item for each segment, so that one
// long sequence occupies every core, unless enough other sequences follow it to occupy them (attention_plan.h); whoever finishes
// the last item of a tile merges them all (no barrier). Where an indexer
// chose the positions that a query sees, a tile has rows of that query alone, and walks its list: the keys of a chunk are
// copied side by side.
//
// Exactness. Segments of kSegment positions and their chunks lie at multiples of their lengths, and every segment is summed from
// nothing, then added to those before it (add_segment), whether one item walks all of them or each has its own. A position that
// one row sees and another row of its tile does not adds nothing to the latter. So a row's result is the same to the bit whatever
// rows a step computes, where blocks hold whole tiles, except that AMX tiles add up in another order.
//
// Lookahead. Blocks lie in any order, and the processor foresees none: without help, a decode waits for memory most of the time. So
// while a chunk is computed, the next one is fetched, at an item's end the first one of the item that this thread is likely to
// claim next. A few lines at a time, between the products and rows of the softmax: lines asked for at once wait for each other.
//
// Layouts. q [T, H, D] with a row stride; out [T, H, V] contiguous, V being the size of a value; kv as in kv_layout.h; block_tables [S, stride] int32; cu_seqlens_q [S + 1], seq_lens [S] int32. Scores and sums
// are fp32; in bf16 the probabilities are rounded to bf16 for the product with the values. Values that are part of the
// keys are transposed to the layout of values chunk by chunk, once for the rows of a tile. So are codes (kv_codes.h) widened to
// numbers of the dtype of q, whose products are exact in them; their scales are factors of scores and of probabilities.
#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "attention/attention_center.h"
#include "attention/attention_integers.h"
#include "attention/attention_pieces.h"
#include "attention/attention_plan.h"
#include "attention/attention_products.h"
#include "attention/attention_softmax.h"
#include "attention/attention_tiles.h"
#include "attention/kv_codes.h"
#include "attention/kv_layout.h"
#include "runtime/parallel.h"
#include "runtime/replay.h"
#include "simd/simd.h"

namespace {

using namespace hr;

constexpr int kMaxDim = 576;  // of a head

struct Scratch {
  alignas(64) float q[kMostRows * kMaxDim];
  alignas(64) float scores[kRowTile * kChunk];  // and what becomes of them
  alignas(64) float out[kMostRows * kMaxDim];
  alignas(64) float values[kPieces * kTile * kMaxDim];  // what piece_values() copies
  alignas(64) float keys[kPieces * kTile * kMaxDim];    // what gather_pieces() or read_codes() copies
  alignas(64) uint8_t unpacked[kTile * 2 * kMaxDim];  // 4-bit codes of a head as int8
  alignas(64) int8_t q_bytes[kMostRows * 2 * kMaxDim], weight_bytes[kRowTile * 2 * kChunk];
  alignas(64) float key_scales[kChunk], value_scales[kChunk];  // of codes
  CenterScores center;
  float max[kMostRows], sum[kMostRows];
  // sums of the segments before the one that is walked over, if there are any
  alignas(64) float earlier_out[kMostRows * kMaxDim];
  float earlier_max[kMostRows], earlier_sum[kMostRows];
  bool has_earlier;

  void begin(int num_rows, int value_dim) {
    has_earlier = false;
    clear(num_rows, value_dim);
  }
  void clear(int num_rows, int value_dim) {
    std::fill(max, max + num_rows, -kInfinity);
    std::fill(sum, sum + num_rows, 0.0f);
    std::fill(out, out + num_rows * value_dim, 0.0f);
  }
};

// Adds a segment's sums of a row, over `value_dim` numbers, to those of the segments before it. Not inlined: every caller has the
// same instructions.
__attribute__((noinline)) void add_segment(const float* part, float part_max, float part_sum, int value_dim, float* out, float& max,
                                           float& sum) {
  if (part_max == -kInfinity) return;  // the row sees none of it
  if (max == -kInfinity) {
    std::memcpy(out, part, sizeof(float) * value_dim);
    max = part_max;
    sum = part_sum;
    return;
  }
  const float new_max = std::max(max, part_max), scale = std::exp2(max - new_max), part_scale = std::exp2(part_max - new_max);
  max = new_max;
  sum = sum * scale + part_sum * part_scale;
  for (int d = 0; d < value_dim; d += 16)
    store(out + d, fma(broadcast(part_scale), load<F32x16>(part + d), load<F32x16>(out + d) * broadcast(scale)));
}

void end_segment(int num_rows, int value_dim, Scratch& s) {
  if (!s.has_earlier) std::fill(s.earlier_max, s.earlier_max + num_rows, -kInfinity);
  s.has_earlier = true;
  for (int r = 0; r < num_rows; ++r)
    add_segment(s.out + r * value_dim, s.max[r], s.sum[r], value_dim, s.earlier_out + r * value_dim, s.earlier_max[r], s.earlier_sum[r]);
}

// Reads the scales of the chunk's piece `i`; those of values are 0 where no position is.
void read_scales(const Problem& p, const Piece& piece, int i, const uint8_t* head, Scratch& s) {
  const Bf16* scales = reinterpret_cast<const Bf16*>(head + scales_offset(p.code, p.head_dim, stored_values(p)));
  store(s.key_scales + i * kTile, load_bf16(scales));
  const F32x16 of_values = load_bf16(p.has_values() ? scales + scale_room(p.head_dim) / 2 : scales);
  store(s.value_scales + i * kTile, keep_lanes(of_values, piece.first_lane, piece.first_lane + piece.count, 0.0f));
}

// Widens the keys and values of the chunk's piece `i`, and reads their scales.
template <KvCode kCode, class Element>
void read_codes(const Problem& p, const Item& item, const Piece& piece, int i, Scratch& s, const Element** keys,
                const Element** values) {
  constexpr KvCode kBytes = kCode == kInt4 ? kInt8 : kCode;
  const int dim = p.head_dim;
  const uint8_t *head = coded_head(p, item, piece), *codes = bytes_of_head(p, head, s.unpacked);
  Element* wide_keys = reinterpret_cast<Element*>(s.keys) + i * kTile * dim;
  Element* wide_values = reinterpret_cast<Element*>(s.values) + i * kTile * p.value_dim;
  widen_keys<kBytes>(codes, dim, wide_keys);
  keys[i] = wide_keys;
  values[i] = wide_values;
  if (p.has_values())
    widen_values<kBytes>(codes + kTile * dim, p.value_dim, piece.first_lane, piece.first_lane + piece.count, wide_values);
  else
    values[i] = piece_values(p, piece, wide_keys, wide_values);
  read_scales(p, piece, i, head, s);
}

template <class Element, class Weight>
auto softmax_of(bool sees_all, bool is_coded) {
  if (is_coded) return sees_all ? softmax_row<Element, Weight, true, true> : softmax_row<Element, Weight, false, true>;
  return sees_all ? softmax_row<Element, Weight, true, false> : softmax_row<Element, Weight, false, false>;
}

// Turns the rows' scores into weights; rescale: what each row's sums so far must be scaled by; largest: RowWeights'.
template <class Element, class Weight>
void softmax_rows(const Problem& p, const Item& item, const TileRows& rows, const std::vector<Piece>& pieces, Scratch& s,
                  float* rescale, float* largest, Lookahead& ahead) {
  const int group = p.num_heads / p.num_kv_heads, lane = rows.first_piece * kTile;
  const auto softmax = softmax_of<Element, Weight>(rows.see_all && rows.num_pieces == kPieces, p.code != kNoCode);
  const float* key_scales = p.key_centers ? kOnes.values : s.key_scales + lane;
  for (int r = 0; r < rows.count; ++r) {
    const int row = item.first_row + rows.first + r, own = rows.first + r;
    ahead.fetch();
    const RowWeights weights =
        softmax(p, pieces.data() + rows.first_piece, rows.num_pieces, item.kv_head * group + row % group,
                query_position(p, item.seq, row / group), p.seq_lens[item.seq], s.scores + r * kChunk, key_scales,
                s.value_scales + lane, s.max[own], s.sum[own]);
    rescale[r] = weights.rescale;
    largest[r] = weights.largest;
  }
}

// Unnormalized attention of one item's rows in its last segment: s.out, s.max (base 2), s.sum. Source: of q. Element: of the
// products; float for keys that were spread, since a query that is spread is not rounded to bf16 again but for tiles.
template <class Source, class Element>
void walk_context(const Problem& p, const Item& item, const Item* next, bool in_tiles, Scratch& s) {
  const int group = p.num_heads / p.num_kv_heads, dim = p.head_dim, value_dim = p.value_dim;
  Element* q_tile = reinterpret_cast<Element*>(s.q);
  for (int r = 0; r < item.num_rows; ++r) {
    const int row = item.first_row + r;
    const int64_t token = p.cu_seqlens_q[item.seq] + row / group;
    const Source* q = static_cast<const Source*>(p.q) + token * p.q_stride + (item.kv_head * group + row % group) * dim;
    if (!has_spread_keys(p.code, p.has_values())) {
      std::memcpy(q_tile + r * dim, q, sizeof(Element) * dim);
    } else {
      hadamard_head(q, dim, s.scores);
      for (int d = 0; d < dim; d += 16) store_lanes(q_tile + r * dim + d, load<F32x16>(s.scores + d));
    }
    if (p.key_centers) s.center.set_row(p, item.kv_head, r, q, item.begin == 0);
  }
  s.begin(item.num_rows, value_dim);

  thread_local std::vector<Piece> pieces;
  const int32_t* table = p.block_tables + item.seq * p.table_stride;
  const Element *keys[kPieces], *values[kPieces];
  float rescale[kRowTile], largest[kRowTile];
  Lookahead ahead;
  const int num_fetches = item.num_rows + 3 * ((item.num_rows + kProductRows - 1) / kProductRows);
  for (int begin = item.begin; begin < item.end;) {
    if (begin > item.begin && begin % kSegment == 0) {
      end_segment(item.num_rows, value_dim, s);
      s.clear(item.num_rows, value_dim);
    }
    Element* gathered = reinterpret_cast<Element*>(s.keys);
    begin = item.is_chosen ? gather_pieces(p, item, table, begin, gathered, pieces)
                           : next_pieces(p.block_size, table, begin, item.end, pieces);
    const int num_pieces = static_cast<int>(pieces.size());
    begin_lookahead<Source>(p, item, begin, next, num_fetches, ahead);
    for (int i = 0; i < num_pieces; ++i) {
      if (p.code != kNoCode) {
        with_code(p.code, [&](auto code) { read_codes<code()>(p, item, pieces[i], i, s, keys, values); });
        continue;
      }
      keys[i] = item.is_chosen ? gathered + i * kTile * dim
                               : static_cast<const Element*>(p.kv) +
                                     keys_offset(pieces[i].tile, p.num_kv_heads, item.kv_head, p.stored_dim());
      values[i] = piece_values(p, pieces[i], keys[i], reinterpret_cast<Element*>(s.values) + i * kTile * value_dim);
    }
    Element *joined = reinterpret_cast<Element*>(s.values), *weights = reinterpret_cast<Element*>(s.scores);
    if (in_tiles) join_pieces(values, num_pieces, value_dim, joined);
    for (int first = 0; first < item.num_rows; first += kRowTile) {
      const TileRows rows(p, item, pieces, first);
      if (rows.num_pieces == 0) continue;
      multiply_keys(in_tiles, q_tile + first * dim, rows.count, keys + rows.first_piece, rows.num_pieces, dim, s.scores,
                    ahead);
      if (p.key_centers) s.center.add(p, first, rows.count, pieces.data() + rows.first_piece, rows.num_pieces,
                                        s.key_scales + rows.first_piece * kTile, s.scores);
      softmax_rows<Element, Element>(p, item, rows, pieces, s, rescale, largest, ahead);
      multiply_values(in_tiles, weights, rows.count, values + rows.first_piece, joined + rows.first_piece * kTile * value_dim,
                      rows.num_pieces, value_dim, rescale, s.out + first * value_dim, ahead);
    }
  }
}

// The same over codes of 4 or 8 bits in whole numbers, with values beside the keys.
template <class Element>
void walk_codes(const Problem& p, const Item& item, const Item* next, Scratch& s) {
  const int group = p.num_heads / p.num_kv_heads, dim = p.head_dim;
  WholeRow queries[kMostRows], weights[kRowTile];
  for (int r = 0; r < item.num_rows; ++r) {
    const int row = item.first_row + r;
    const int64_t token = p.cu_seqlens_q[item.seq] + row / group;
    const Element* q = static_cast<const Element*>(p.q) + token * p.q_stride + (item.kv_head * group + row % group) * dim;
    hadamard_head(q, dim, s.scores);
    queries[r] = to_whole(s.scores, dim, largest_of(s.scores, dim), s.q_bytes + r * 2 * dim, dim);
    if (p.key_centers) s.center.set_row(p, item.kv_head, r, q, item.begin == 0);
  }
  s.begin(item.num_rows, p.value_dim);

  thread_local std::vector<Piece> pieces;
  const int32_t* table = p.block_tables + item.seq * p.table_stride;
  const uint8_t *keys[kPieces], *values[kPieces];
  float rescale[kRowTile], largest[kRowTile];
  Lookahead ahead;
  const int num_fetches = 2 * item.num_rows + 3 * ((item.num_rows + kWholeRows - 1) / kWholeRows);
  for (int begin = item.begin; begin < item.end;) {
    if (begin > item.begin && begin % kSegment == 0) {
      end_segment(item.num_rows, p.value_dim, s);
      s.clear(item.num_rows, p.value_dim);
    }
    begin = next_pieces(p.block_size, table, begin, item.end, pieces);
    const int num_pieces = static_cast<int>(pieces.size());
    begin_lookahead<Element>(p, item, begin, next, num_fetches, ahead);
    for (int i = 0; i < num_pieces; ++i) {
      const uint8_t* head = coded_head(p, item, pieces[i]);
      keys[i] = bytes_of_head(p, head, reinterpret_cast<uint8_t*>(s.keys) + i * kTile * (dim + p.value_dim));
      values[i] = keys[i] + kTile * dim;
      read_scales(p, pieces[i], i, head, s);
    }
    for (int first = 0; first < item.num_rows; first += kRowTile) {
      const TileRows rows(p, item, pieces, first);
      if (rows.num_pieces == 0) continue;
      whole_scores(s.q_bytes + first * 2 * dim, queries + first, rows.count, keys + rows.first_piece, rows.num_pieces, dim, s.scores,
                   ahead);
      if (p.key_centers) s.center.add(p, first, rows.count, pieces.data() + rows.first_piece, rows.num_pieces,
                                        s.key_scales + rows.first_piece * kTile, s.scores);
      softmax_rows<Element, float>(p, item, rows, pieces, s, rescale, largest, ahead);
      for (int r = 0; r < rows.count; ++r) {
        ahead.fetch();
        weights[r] = to_whole(s.scores + r * kChunk, rows.num_pieces * kTile, largest[r], s.weight_bytes + r * 2 * kChunk, kChunk);
      }
      add_whole_values(s.weight_bytes, weights, rows.count, values + rows.first_piece, rows.num_pieces, p.value_dim, rescale,
                       s.out + first * p.value_dim, ahead);
    }
  }
}

template <class Element>
void write_row(const Problem& p, const Item& item, int r, const float* out, float max, float sum) {
  const int group = p.num_heads / p.num_kv_heads, row = item.first_row + r;
  const int head = item.kv_head * group + row % group;
  const int64_t token = p.cu_seqlens_q[item.seq] + row / group;
  if (p.sinks) sum += std::exp2(p.sinks[head] * kLog2e - max);
  Element* target = static_cast<Element*>(p.out) + (token * p.num_heads + head) * p.value_dim;
  const F32x16 inverse = broadcast(p.value_scale / sum);
  alignas(64) float whole[kMaxDim];
  if (has_spread_values(p.code, p.has_values())) {
    hadamard_head(out, p.value_dim, whole);
    out = whole;
  }
  for (int d = 0; d < p.value_dim; d += 16) store_lanes(target + d, load<F32x16>(out + d) * inverse);
}

// Partial results of split tiles: per row max, sum (16 floats apart, for alignment) and V sums.
struct Partials {
  int64_t row_stride;
  float* data;
  std::atomic<int>* finished;  // per tile
  float* row(int64_t partial, int r) const { return data + (partial * kRowTile + r) * row_stride; }
};

template <class Element>
void merge_splits(const Problem& p, const Item& item, const Partials& partials, Scratch& s) {
  for (int r = 0; r < item.num_rows; ++r) {
    float max = -kInfinity, sum = 0;
    for (int i = 0; i < item.num_splits; ++i) {
      const float* part = partials.row(item.partial + i, r);
      add_segment(part + 16, part[0], part[1], p.value_dim, s.out, max, sum);
    }
    write_row<Element>(p, item, r, s.out, max, sum);
  }
}

template <class Element>
void run_item(const Problem& p, const Item& item, const Item* next, const Partials& partials, Scratch& s) {
  const bool in_tiles = fits_tiles<Element>(p, item.num_rows);
#if HR_AMX
  std::optional<AmxTiles> registers;
  if (in_tiles) registers.emplace();
#endif
  if (in_tiles || !has_spread_keys(p.code, p.has_values()))
    walk_context<Element, Element>(p, item, next, in_tiles, s);
  else if (kHasByteProducts && sizeof(Element) == 2)  // fp32 is for numbers that are as near as they can be
    walk_codes<Element>(p, item, next, s);
  else
    walk_context<Element, float>(p, item, next, false, s);
  if (s.has_earlier) end_segment(item.num_rows, p.value_dim, s);
  if (item.num_splits == 1) {
    const float *out = s.has_earlier ? s.earlier_out : s.out, *max = s.has_earlier ? s.earlier_max : s.max;
    const float* sum = s.has_earlier ? s.earlier_sum : s.sum;
    for (int r = 0; r < item.num_rows; ++r) write_row<Element>(p, item, r, out + r * p.value_dim, max[r], sum[r]);
    return;
  }
  for (int r = 0; r < item.num_rows; ++r) {
    float* part = partials.row(item.partial + item.split, r);
    part[0] = s.max[r];
    part[1] = s.sum[r];
    std::memcpy(part + 16, s.out + r * p.value_dim, sizeof(float) * p.value_dim);
  }
  // acq_rel: the last to arrive sees what the others stored
  if (partials.finished[item.tile].fetch_add(1, std::memory_order_acq_rel) + 1 == item.num_splits)
    merge_splits<Element>(p, item, partials, s);
}

template <class Element>
void attend(const Problem& p) {
  thread_local std::vector<Item> items;
  thread_local std::vector<float> partial_memory;
  Plan work{items};
  plan(p, work);
  Partials partials{};
  partials.row_stride = 16 + p.value_dim;
  partial_memory.resize(std::max<size_t>(partial_memory.size(), work.num_partials * kRowTile * partials.row_stride));
  partials.data = partial_memory.data();
  std::unique_ptr<std::atomic<int>[]> finished(new std::atomic<int>[work.num_split_tiles]());
  partials.finished = finished.get();
  const Item* all = items.data();  // thread_local: workers must not look up their own
  const int64_t count = static_cast<int64_t>(items.size());
  const int threads = num_threads();
  parallel_for(count, [&](int64_t i) {
    run_item<Element>(p, all[i], i + threads < count ? all + i + threads : nullptr, partials, thread_scratch<Scratch>());
  });
}

}  // namespace

// is_bf16: q, out and kv without a code are bf16, else fp32. code: the KvCode of kv. head_dim, value_dim: multiples of 16, at most 576. values_from: -1 where values
// are stored beside the keys, else a multiple of 16, head_dim - value_dim. window 0, chunk 0, softcap 0: none. is_causal: 0
// only without a chunk; a window then reaches as far ahead as back. distance_bias: null or as Problem has it, for all distances in the batch.
// chosen: null, or [T, topk] as hr_choose_positions writes it; only without a window, chunk, bias or code, with values in the keys.
// key_centers: null, or what keys with a code were stored without, as Problem has it, with tables for all positions.
HR_API void hr_paged_attention(int is_bf16, const void* q, int64_t q_stride, void* out, const void* kv,
                                   const int32_t* cu_seqlens_q, const int32_t* seq_lens, const int32_t* block_tables,
                                   int64_t table_stride, int num_seqs, int num_heads, int num_kv_heads, int head_dim,
                                   int value_dim, int values_from, int block_size, float value_scale, float scale, int window,
                                   int chunk, int is_causal, float softcap, const float* alibi_slopes, const float* sinks, const float* distance_bias,
                                   int64_t bias_stride, int64_t bias_zero, const int32_t* chosen, int topk, int code, const float* key_centers,
                                   const float* rotary_bases, const float* rotary_offsets, const float* slow_terms, int rotary_dim, int fast_pairs) {
  const Problem p{q,        out,         kv,        cu_seqlens_q, seq_lens, block_tables, alibi_slopes, sinks,       distance_bias,
                  key_centers, rotary_bases, rotary_offsets, slow_terms, chosen,
                  q_stride, table_stride, bias_stride, bias_zero, num_seqs, num_heads, num_kv_heads, head_dim, value_dim,
                  block_size, values_from, topk, code, rotary_dim, fast_pairs, window, chunk, is_causal != 0, value_scale, scale, softcap};
  if (is_bf16)
    attend<Bf16>(p);
  else
    attend<float>(p);
}

HR_REPLAYABLE(hr_paged_attention)
