// Choice of the positions that each row attends to: the topk with the highest scores among those that it sees,
//
//   score[t, p] = sum_h w[t, h] * max(0, q[t, h] . k[p]),   p <= pos(t),
//
// the earlier of equal ones, in ascending order. A row that sees no more than topk positions gets -1 as its first.
//
// Work. Rows are taken in groups whose scores fit in kMaxScores numbers. An item of work is first a span of kSpan positions of
// a row, whose scores are products with chunks of keys as in attention; then a whole row, whose topk are selected.
//
// Layouts. q [T, H, D] with a row stride; weights [T, H] fp32 with a row stride; keys as in kv_layout.h, for one head without
// values; block_tables [S, stride] int32; cu_seqlens_q [S + 1], seq_lens [S] int32; chosen [T, topk] int32. Scores are fp32; one that is
// not a number is made one, since sorting needs an order.
#include <algorithm>
#include <functional>
#include <limits>
#include <vector>

#include "attention/attention_products.h"
#include "attention/kv_layout.h"
#include "runtime/parallel.h"
#include "runtime/replay.h"
#include "simd/simd.h"

namespace {

using namespace hr;

constexpr int64_t kMaxScores = 1 << 22;
constexpr int kSpan = 1024;
constexpr int kHeads = 32;  // whose products are held together

struct Choice {
  const void *q, *keys;
  const float* weights;
  const int32_t *cu_seqlens_q, *seq_lens, *block_tables;
  int32_t* chosen;
  int64_t q_stride, weight_stride, table_stride;
  int num_seqs, block_size, num_heads, head_dim, topk;
};

struct Row {
  int64_t token;
  int seq, num_seen;
};

struct Scratch {
  alignas(64) float products[kHeads * kChunk];
};

// Scores of positions begin .. end - 1, to `scores`, which is indexed by position.
template <class Element>
void score_span(const Choice& c, const Row& row, int begin, int end, float* scores, Scratch& s) {
  thread_local std::vector<Piece> pieces;
  const int32_t* table = c.block_tables + row.seq * c.table_stride;
  const Element* q = static_cast<const Element*>(c.q) + row.token * c.q_stride;
  const float* weights = c.weights + row.token * c.weight_stride;
  const Element* keys[kPieces];
  Lookahead none;
  while (begin < end) {
    begin = next_pieces(c.block_size, table, begin, end, pieces);
    const int num_pieces = static_cast<int>(pieces.size());
    for (int i = 0; i < num_pieces; ++i)
      keys[i] = static_cast<const Element*>(c.keys) + keys_offset(pieces[i].tile, 1, 0, c.head_dim);
    F32x16 sums[kPieces] = {};
    for (int first = 0; first < c.num_heads; first += kHeads) {
      const int num_heads = std::min(kHeads, c.num_heads - first);
      all_scores(q + first * c.head_dim, num_heads, keys, num_pieces, c.head_dim, s.products, none);
      for (int h = 0; h < num_heads; ++h)
        for (int i = 0; i < num_pieces; ++i)
          sums[i] = fma(broadcast(weights[first + h]), max(load<F32x16>(s.products + h * kChunk + i * kTile), broadcast(0.0f)),
                        sums[i]);
    }
    for (int i = 0; i < num_pieces; ++i) {
      alignas(64) float lanes[kTile];
      store(lanes, sums[i]);
      for (int lane = 0; lane < pieces[i].count; ++lane) {
        const float score = lanes[pieces[i].first_lane + lane];
        scores[pieces[i].position + lane] = score == score ? score : -std::numeric_limits<float>::infinity();
      }
    }
  }
}

void select(const float* scores, int num_seen, int topk, int32_t* chosen) {
  thread_local std::vector<float> ordered;
  ordered.assign(scores, scores + num_seen);
  std::nth_element(ordered.begin(), ordered.begin() + (topk - 1), ordered.end(), std::greater<float>());
  const float lowest = ordered[topk - 1];
  const auto is_higher = [&](float score) { return score > lowest; };
  int num_equal = topk - static_cast<int>(std::count_if(ordered.begin(), ordered.begin() + topk, is_higher));
  for (int position = 0; position < num_seen; ++position)
    if (scores[position] > lowest || (scores[position] == lowest && num_equal-- > 0)) *chosen++ = position;
}

// The rows that see more than topk positions; marks the others.
void list_rows(const Choice& c, std::vector<Row>& rows) {
  rows.clear();
  for (int seq = 0; seq < c.num_seqs; ++seq)
    for (int64_t token = c.cu_seqlens_q[seq]; token < c.cu_seqlens_q[seq + 1]; ++token) {
      const int num_seen = c.seq_lens[seq] - static_cast<int>(c.cu_seqlens_q[seq + 1] - token) + 1;
      if (num_seen > c.topk)
        rows.push_back({token, seq, num_seen});
      else
        c.chosen[token * c.topk] = -1;
    }
}

template <class Element>
void choose(const Choice& c) {
  thread_local std::vector<Row> rows;
  thread_local std::vector<float> memory;
  list_rows(c, rows);
  if (rows.empty()) return;
  const auto shorter = [](const Row& a, const Row& b) { return a.num_seen < b.num_seen; };
  const int64_t longest = std::max_element(rows.begin(), rows.end(), shorter)->num_seen;
  const int64_t num_rows = static_cast<int64_t>(rows.size()), group = std::clamp<int64_t>(kMaxScores / longest, 1, num_rows);
  const int64_t num_spans = (longest + kSpan - 1) / kSpan;
  if (static_cast<int64_t>(memory.size()) < group * longest) memory.resize(group * longest);
  float* scores = memory.data();  // thread_local: workers must not look up their own
  for (int64_t start = 0; start < num_rows; start += group) {
    const Row* all = rows.data() + start;
    const int64_t count = std::min(group, num_rows - start);
    parallel_for(count * num_spans, [&](int64_t i) {
      const Row& row = all[i / num_spans];
      const int begin = static_cast<int>(i % num_spans) * kSpan;
      score_span<Element>(c, row, begin, std::min(begin + kSpan, row.num_seen), scores + i / num_spans * longest,
                          thread_scratch<Scratch>());
    });
    parallel_for(count, [&](int64_t i) { select(scores + i * longest, all[i].num_seen, c.topk, c.chosen + all[i].token * c.topk); });
  }
}

}  // namespace

// is_bf16: q and keys are bf16, else fp32. head_dim: a multiple of 16.
HR_API void hr_choose_positions(int is_bf16, const void* q, int64_t q_stride, const float* weights, int64_t weight_stride,
                                const void* keys, const int32_t* cu_seqlens_q, const int32_t* seq_lens,
                                const int32_t* block_tables, int64_t table_stride, int num_seqs, int block_size, int num_heads,
                                int head_dim, int topk, int32_t* chosen) {
  const Choice c{q,        keys,          weights,      cu_seqlens_q, seq_lens,   block_tables, chosen,   q_stride,
                 weight_stride, table_stride, num_seqs, block_size,   num_heads, head_dim,     topk};
  if (is_bf16)
    choose<Bf16>(c);
  else
    choose<float>(c);
}

HR_REPLAYABLE(hr_choose_positions)
