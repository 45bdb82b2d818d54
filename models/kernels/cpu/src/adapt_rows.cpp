// Adapters of a linear layer: out [M, N] = gain * out + b (a input(x)) + shift, for the rows that have one (Hu et al. 2021).
//
// A row's adapter is found through its slot, in a table whose address does not change, so that a recorded step stays valid while
// adapters come and go. Rows are grouped by adapter, whatever their order, and each group reads its a and b once. x, a, b and the
// product in between, of `rank` columns, are bf16; sums are fp32. a and b are packed as in bf16_linear.cpp, in blocks of 16 ranks
// and of 16 outputs, and the pairs of a layer (of q, k and v) share the blocks of a.
//
// Few rows: bound by memory, and short. One loop has tasks of two kinds: parts of the columns of a, whose sums are stored apart;
// and runs of blocks of b, which ask for their weights, wait for all of the first kind, and add the parts. Tasks are begun in
// order, so that what is waited for is always under way.
//
// Many rows: bound by arithmetic. A task is a panel of rows of one adapter, from input to output.
#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "bf16_products.h"
#include "parallel.h"
#include "replay.h"
#include "row_input.h"
#include "segments.h"
#include "streaming.h"

using namespace hr;

// A pair: the outputs first .. first + rows - 1. Ranks are even, padded with zeros.
struct hr_low_rank_pair {
  const uint8_t* b;           // [blocks of outputs][rank / 2][16][2]
  const float *gain, *shift;  // [blocks of outputs * 16], or null
  int32_t first, rows;
  int32_t first_rank, rank;  // of the layer's ranks
};

struct hr_layer_adapter {
  const uint8_t* a;  // [blocks of ranks][K / 2][16][2]; null: this adapter does not change the layer
  const hr_low_rank_pair* pairs;
  int32_t num_pairs, num_blocks;  // blocks of ranks
};

namespace {

constexpr int kFewRows = 32;
constexpr int kMostShared = kBf16SharedRows[sizeof(kBf16SharedRows) / sizeof(int) - 1];
constexpr int64_t kPrepareAlone = 16384;  // elements; up to here the caller is done before the others would have begun
constexpr int64_t kLeastTaskBytes = 8 << 10, kMostTaskBytes = 32 << 10;
constexpr int kTasksPerThread = 4;
constexpr int kLooksBeforeYield = 4096;
constexpr int kPanelRows = 48, kLeastPanelRows = 12;  // whole register tiles
constexpr int kSpan = 4;                              // blocks of a register tile
constexpr int64_t kStepPairs = 64;                    // 4 * 64 * 64 bytes = 16 KiB of weights
constexpr int kSpareRows = 12;                        // a register tile may reach this far beyond the last row

int64_t block_bytes(int64_t columns) { return columns * kBlockRows * 2; }

// silu(x) to what bf16 tells apart: relative error below 2e-4. NaN stays NaN.
HR_INLINE F32x16 silu_for_bf16(const F32x16& x) {
  const F32x16 power = min(broadcast(126.0f), x * broadcast(-1.44269504f));
  return x * reciprocal_for_bf16(broadcast(1.0f) + exp2_for_bf16(power));
}

struct Layer {
  const void* x;
  int64_t x_stride;
  bool x_is_bf16;
  InputSpec input;
  int64_t num_rows, columns;
  void* out;
  int64_t out_stride;
  bool out_is_bf16;

  // f(pointer to the row's elements)
  template <class Function>
  void with_row(int64_t row, const Function& f) const {
    if (x_is_bf16)
      f(static_cast<const Bf16*>(x) + row * x_stride);
    else
      f(static_cast<const float*>(x) + row * x_stride);
  }

  // prepared [columns] bf16 = the row after its norm or activation; buffer: as many floats
  void prepare(int64_t row, float* buffer, Bf16* prepared) const {
    if (input.kind == InputKind::kSiluGated) return prepare_part(row, 0, columns, buffer, prepared);
    with_row(row, [&](auto* x) { prepare_row_bf16(input, x, x_is_bf16, columns, buffer, prepared); });
  }

  // The same for columns first .. first + count - 1 alone; not for norms.
  void prepare_part(int64_t row, int64_t first, int64_t count, float* buffer, Bf16* prepared) const {
    with_row(row, [&](auto* x) {
      const auto *gate = x + first, *up = x + columns + first;
      if (input.kind == InputKind::kSiluGated) {  // the usual one, which as exactly as for fp32 would cost half of a product
        for (int64_t k = 0; k < count; k += 16)
          store_bf16(prepared + k, silu_for_bf16(load_lanes(gate + k)) * load_lanes(up + k));
        return;
      }
      prepare_columns(input, gate, up, count, buffer);
      for (int64_t k = 0; k < count; k += 16) store_bf16(prepared + k, load<F32x16>(buffer + k));
    });
  }
};

// Rows order[first .. first + count - 1] have this adapter.
struct Group {
  const hr_layer_adapter* adapter;
  int32_t first, count;
};

struct Groups {
  std::vector<Group> groups;
  std::vector<int32_t> order;  // rows with an adapter, group after group
  int32_t num_blocks;          // most of a group

  void find(const hr_layer_adapter* table, const int32_t* slots, int64_t num_rows) {
    groups.clear();
    of_row.resize(num_rows);
    num_blocks = 0;
    size_t last = 0;
    for (int64_t row = 0; row < num_rows; ++row) {
      of_row[row] = -1;
      const hr_layer_adapter* adapter = slots[row] < 0 ? nullptr : table + slots[row];
      if (!adapter || !adapter->a) continue;
      if (last >= groups.size() || groups[last].adapter != adapter)
        for (last = 0; last < groups.size() && groups[last].adapter != adapter; ++last) {
        }
      if (last == groups.size()) groups.push_back({adapter, 0, 0});
      ++groups[last].count;
      num_blocks = std::max(num_blocks, adapter->num_blocks);
      of_row[row] = static_cast<int32_t>(last);
    }
    int32_t total = 0;
    for (Group& group : groups) {
      group.first = total;
      total += group.count;
      group.count = 0;
    }
    order.resize(total);
    for (int64_t row = 0; row < num_rows; ++row)
      if (of_row[row] >= 0) {
        Group& group = groups[of_row[row]];
        order[group.first + group.count++] = static_cast<int32_t>(row);
      }
  }

 private:
  std::vector<int32_t> of_row;
};

// A thread's own memory, which only grows.
struct Scratch {
  std::vector<float> floats, sums;
  std::vector<Bf16> rows, ranks;
};

template <class Element>
Element* reserve(std::vector<Element>& memory, size_t size) {
  if (memory.size() < size) memory.resize(size);
  return memory.data();
}

// lanes 0 .. count - 1 of v are added to out; gain, shift: of these outputs, or null
template <class Element>
HR_INLINE void add_lanes(Element* out, int count, F32x16 v, const float* gain, const float* shift) {
  if (shift) v = v + load<F32x16>(shift);
  if (count == kBlockRows) {
    const F32x16 before = load_lanes(out);
    store_lanes(out, gain ? fma(before, load<F32x16>(gain), v) : before + v);
    return;
  }
  float lanes[kBlockRows];
  store(lanes, v);
  for (int i = 0; i < count; ++i) store_one(out + i, to_float(out[i]) * (gain ? gain[i] : 1.0f) + lanes[i]);
}

// Block `block` of the pair's outputs of row `row`.
HR_INLINE void add_block(const Layer& layer, const hr_low_rank_pair& pair, int64_t row, int64_t block, const F32x16& v) {
  const int64_t output = block * kBlockRows, at = row * layer.out_stride + pair.first + output;
  const int count = static_cast<int>(std::min<int64_t>(kBlockRows, pair.rows - output));
  const float *gain = pair.gain ? pair.gain + output : nullptr, *shift = pair.shift ? pair.shift + output : nullptr;
  if (layer.out_is_bf16)
    add_lanes(static_cast<Bf16*>(layer.out) + at, count, v, gain, shift);
  else
    add_lanes(static_cast<float*>(layer.out) + at, count, v, gain, shift);
}

int64_t num_output_blocks(const hr_low_rank_pair& pair) { return (pair.rows + kBlockRows - 1) / kBlockRows; }

// ---- few rows

template <int R>
__attribute__((noinline)) void multiply_block(const uint8_t* block, const Bf16* rows, int64_t row_stride, int64_t num_pairs,
                                              F32x16* results) {
  // one row: several chains of dependent instructions, or each would wait for its own result
  constexpr int kChains = R == 1 ? 4 : R == 2 ? 2 : 1;
  F32x16 sums[kChains][R][1] = {};
  const int64_t run = num_pairs / kChains;
  for (int64_t k = 0; k < run; ++k)
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c)
      multiply_add<R, 1>(block + 64 * (k * kChains + c), 0, rows + 2 * (k * kChains + c), row_stride, 1, sums[c]);
  multiply_add<R, 1>(block + 64 * run * kChains, 0, rows + 2 * run * kChains, row_stride, num_pairs - run * kChains, sums[0]);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    results[r] = sums[0][r][0];
    for (int c = 1; c < kChains; ++c) results[r] = results[r] + sums[c][r][0];
  }
}

// Up to kMostShared rows, in one pass where a kernel for at least that many exists.
template <int kChoice = 0>
void multiply_shared(const uint8_t* block, const Bf16* rows, int64_t row_stride, int64_t num_pairs, int count, F32x16* results) {
  constexpr int R = kBf16SharedRows[kChoice];
  if constexpr (R < kMostShared) {
    if (count > R) return multiply_shared<kChoice + 1>(block, rows, row_stride, num_pairs, count, results);
  }
  multiply_block<R>(block, rows, row_stride, num_pairs, results);
}

struct ShrinkTask {
  int32_t group;
  int64_t first_column, columns;
  int32_t part;
};

struct ExpandTask {
  int32_t group, pair;
  int64_t first_block, end_block;
};

class FewRows {
 public:
  void run(const Layer& layer, const Groups& rows) {
    layer_ = &layer;
    rows_ = &rows;
    make_tasks();
    num_ranks_ = static_cast<int64_t>(rows.num_blocks) * kBlockRows;
    reserve(partial_, rows.order.size() * num_parts_ * num_ranks_ + kBlockRows);
    prepared_ = is_norm(layer.input.kind) ? prepare_rows() : nullptr;
    num_unfinished_.store(static_cast<int64_t>(shrink_.size()), std::memory_order_relaxed);
    const int64_t num_shrink = shrink_.size();
    parallel_for(num_shrink + static_cast<int64_t>(expand_.size()), [&](int64_t task) {
      if (task < num_shrink)
        shrink(shrink_[task]);
      else
        expand(expand_[task - num_shrink]);
    });
  }

 private:
  void make_tasks() {
    int64_t a_bytes = 0, b_bytes = 0;
    for (const Group& group : rows_->groups) {
      a_bytes += group.adapter->num_blocks * block_bytes(layer_->columns);
      for (int p = 0; p < group.adapter->num_pairs; ++p)
        b_bytes += num_output_blocks(group.adapter->pairs[p]) * block_bytes(group.adapter->pairs[p].rank);
    }
    const auto task_bytes = [](int64_t all) {
      return std::clamp<int64_t>(all / (kTasksPerThread * num_threads()), kLeastTaskBytes, kMostTaskBytes);
    };
    const int64_t a_task = task_bytes(a_bytes), b_task = task_bytes(b_bytes);
    shrink_.clear(), expand_.clear();
    num_parts_ = 0;
    for (size_t g = 0; g < rows_->groups.size(); ++g) {
      const hr_layer_adapter& adapter = *rows_->groups[g].adapter;
      const int64_t step = std::max<int64_t>(1, a_task / (adapter.num_blocks * block_bytes(16))) * 16;
      int32_t part = 0;
      for (int64_t k = 0; k < layer_->columns; k += step, ++part)
        shrink_.push_back({static_cast<int32_t>(g), k, std::min(step, layer_->columns - k), part});
      num_parts_ = std::max(num_parts_, part);
      for (int p = 0; p < adapter.num_pairs; ++p) {
        const int64_t blocks = num_output_blocks(adapter.pairs[p]);
        const int64_t run = std::max<int64_t>(1, b_task / block_bytes(adapter.pairs[p].rank));
        for (int64_t block = 0; block < blocks; block += run)
          expand_.push_back({static_cast<int32_t>(g), p, block, std::min(block + run, blocks)});
      }
    }
    parts_of_group_.assign(rows_->groups.size(), 0);
    for (const ShrinkTask& task : shrink_) ++parts_of_group_[task.group];
  }

  const Bf16* prepare_rows() {
    const int64_t count = rows_->order.size(), columns = layer_->columns;
    Bf16* prepared = reserve(prepared_memory_, (count + kSpareRows) * columns);
    parallel_for(count, std::max<int64_t>(1, kPrepareAlone / columns), [&](int64_t i) {
      layer_->prepare(rows_->order[i], reserve(thread_scratch<Scratch>().floats, columns), prepared + i * columns);
    });
    return prepared;
  }

  // partial [row][part][ranks] = the row's columns of this part times a's
  void shrink(const ShrinkTask& task) {
    const Group& group = rows_->groups[task.group];
    const int64_t stride = block_bytes(layer_->columns), offset = block_bytes(task.first_column);
    for (int c = 0; c < group.adapter->num_blocks; ++c)
      prefetch_lines(group.adapter->a + c * stride + offset, block_bytes(task.columns));
    Scratch& scratch = thread_scratch<Scratch>();
    const Bf16* rows = prepared_ ? prepared_ + group.first * layer_->columns + task.first_column : nullptr;
    const int64_t row_stride = prepared_ ? layer_->columns : task.columns;
    if (!rows) {
      Bf16* part = reserve(scratch.rows, (group.count + kSpareRows) * task.columns);
      float* buffer = reserve(scratch.floats, task.columns);
      for (int r = 0; r < group.count; ++r)
        layer_->prepare_part(rows_->order[group.first + r], task.first_column, task.columns, buffer, part + r * task.columns);
      rows = part;
    }
    F32x16 results[kMostShared];
    for (int c = 0; c < group.adapter->num_blocks; ++c)
      for (int r = 0; r < group.count; r += kMostShared) {
        const int count = std::min(kMostShared, group.count - r);
        multiply_shared(group.adapter->a + c * stride + offset, rows + r * row_stride, row_stride, task.columns / 2, count, results);
        for (int i = 0; i < count; ++i)
          store(partial(group.first + r + i, task.part) + c * kBlockRows, results[i]);
      }
    num_unfinished_.fetch_sub(1, std::memory_order_release);
  }

  void expand(const ExpandTask& task) {
    const Group& group = rows_->groups[task.group];
    const hr_low_rank_pair& pair = group.adapter->pairs[task.pair];
    const int64_t stride = block_bytes(pair.rank);
    prefetch_lines(pair.b + task.first_block * stride, (task.end_block - task.first_block) * stride);
    wait_for_shrink();
    const int64_t rank_stride = (pair.rank + kBlockRows - 1) / kBlockRows * kBlockRows;
    Bf16* ranks = reserve(thread_scratch<Scratch>().ranks, (group.count + kSpareRows) * rank_stride);
    for (int r = 0; r < group.count; ++r) add_parts(task.group, group.first + r, pair, ranks + r * rank_stride);
    F32x16 results[kMostShared];
    for (int r = 0; r < group.count; r += kMostShared) {
      const int count = std::min(kMostShared, group.count - r);
      for (int64_t block = task.first_block; block < task.end_block; ++block) {
        multiply_shared(pair.b + block * stride, ranks + r * rank_stride, rank_stride, pair.rank / 2, count, results);
        for (int i = 0; i < count; ++i) add_block(*layer_, pair, rows_->order[group.first + r + i], block, results[i]);
      }
    }
  }

  // ranks [rank, padded to 16] bf16 = the sums of the row's parts
  void add_parts(int32_t group, int64_t row, const hr_low_rank_pair& pair, Bf16* ranks) {
    for (int64_t k = 0; k < pair.rank; k += kBlockRows) {
      F32x16 sum = load<F32x16>(partial(row, 0) + pair.first_rank + k);
      for (int part = 1; part < parts_of_group_[group]; ++part) sum = sum + load<F32x16>(partial(row, part) + pair.first_rank + k);
      store_bf16(ranks + k, sum);
    }
  }

  void wait_for_shrink() const {
    for (int look = 0; num_unfinished_.load(std::memory_order_acquire) > 0; ++look)
      if (look >= kLooksBeforeYield) std::this_thread::yield();  // a thread that has a part was descheduled
  }

  float* partial(int64_t row, int64_t part) { return partial_.data() + (row * num_parts_ + part) * num_ranks_; }

  const Layer* layer_;
  const Groups* rows_;
  const Bf16* prepared_;
  std::vector<Bf16> prepared_memory_;
  std::vector<float> partial_;
  std::vector<ShrinkTask> shrink_;
  std::vector<ExpandTask> expand_;
  std::vector<int32_t> parts_of_group_;
  int32_t num_parts_;
  int64_t num_ranks_;
  alignas(64) std::atomic<int64_t> num_unfinished_{0};
};

// ---- many rows

template <int R, int C>
__attribute__((noinline)) void shrink_tile(const uint8_t* block, int64_t block_stride, const Bf16* rows, int64_t row_stride,
                                           int64_t num_pairs, float* sums, int64_t sums_stride) {
  F32x16 tile[R][C];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) tile[r][c] = load<F32x16>(sums + r * sums_stride + c * kBlockRows);
  multiply_add<R, C>(block, block_stride, rows, row_stride, num_pairs, tile);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) store(sums + r * sums_stride + c * kBlockRows, tile[r][c]);
}

// rows: `count` of the tile's R are wanted. Where outputs are only added to, the sums begin with them.
template <class Element, int R, int C>
__attribute__((noinline)) void add_tile(const Layer& layer, const hr_low_rank_pair& pair, int64_t block, const Bf16* ranks,
                                        int64_t rank_stride, const int32_t* rows, int count) {
  F32x16 tile[R][C];
  Element* out[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    out[r] = static_cast<Element*>(layer.out) + rows[std::min(r, count - 1)] * layer.out_stride + pair.first + block * kBlockRows;
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) tile[r][c] = load_lanes(out[r] + c * kBlockRows);
  }
  const int64_t stride = block_bytes(pair.rank);
  multiply_add<R, C>(pair.b + block * stride, stride, ranks, rank_stride, pair.rank / 2, tile);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    if (r >= count) break;
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) store_lanes(out[r] + c * kBlockRows, tile[r][c]);
  }
}

// The same for all outputs: scaled, shifted, and at ragged ends.
template <int R, int C>
__attribute__((noinline)) void change_tile(const Layer& layer, const hr_low_rank_pair& pair, int64_t block, const Bf16* ranks,
                                           int64_t rank_stride, const int32_t* rows, int count) {
  F32x16 tile[R][C] = {};
  const int64_t stride = block_bytes(pair.rank);
  multiply_add<R, C>(pair.b + block * stride, stride, ranks, rank_stride, pair.rank / 2, tile);
  for (int r = 0; r < count; ++r)
    for (int c = 0; c < C; ++c) add_block(layer, pair, rows[r], block + c, tile[r][c]);
}

template <int R, int C>
void expand_tile(const Layer& layer, const hr_low_rank_pair& pair, int64_t block, const Bf16* ranks, int64_t rank_stride,
                 const int32_t* rows, int count) {
  const auto tile = pair.gain || pair.shift || (block + C) * kBlockRows > pair.rows ? change_tile<R, C>
                    : layer.out_is_bf16                                            ? add_tile<Bf16, R, C>
                                                                                   : add_tile<float, R, C>;
  tile(layer, pair, block, ranks, rank_stride, rows, count);
}

// f(C) with the number of blocks as an integral constant
template <class Function>
HR_INLINE void with_blocks(int64_t blocks, const Function& f) {
  switch (blocks) {
    case 1: return f(std::integral_constant<int, 1>{});
    case 2: return f(std::integral_constant<int, 2>{});
    case 3: return f(std::integral_constant<int, 3>{});
    default: return f(std::integral_constant<int, kSpan>{});
  }
}

// With a single block a tile has more rows, or its chains of dependent instructions would be too few.
template <int kBlocks>
constexpr int kShrinkTile = kBlocks == 1 ? 2 * kBf16TileRows : kBf16TileRows;

// f(R) with the rows of a register tile that holds `count`: kRows or half of them
template <int kRows, class Function>
HR_INLINE void with_tile(int count, const Function& f) {
  if (count > kRows / 2) return f(std::integral_constant<int, kRows>{});
  f(std::integral_constant<int, kRows / 2>{});
}

void panel_task(const Layer& layer, const hr_layer_adapter& adapter, const int32_t* rows, int num_rows) {
  Scratch& scratch = thread_scratch<Scratch>();
  const int64_t columns = layer.columns, stride = block_bytes(columns), num_ranks = adapter.num_blocks * kBlockRows;
  Bf16* prepared = reserve(scratch.rows, (num_rows + kSpareRows) * columns);
  for (int r = 0; r < num_rows; ++r) layer.prepare(rows[r], reserve(scratch.floats, columns), prepared + r * columns);
  float* sums = reserve(scratch.sums, (num_rows + kSpareRows) * num_ranks);
  std::fill(sums, sums + (num_rows + kSpareRows) * num_ranks, 0.0f);
  for (int64_t c = 0; c < adapter.num_blocks; c += kSpan)
    with_blocks(adapter.num_blocks - c, [&](auto blocks) {
      for (int64_t k = 0; k < columns / 2; k += kStepPairs)
        for (int r = 0; r < num_rows; r += kShrinkTile<blocks>)
          with_tile<kShrinkTile<blocks>>(num_rows - r, [&](auto tile) {
            shrink_tile<tile, blocks>(adapter.a + c * stride + 64 * k, stride, prepared + r * columns + 2 * k, columns,
                                      std::min(kStepPairs, columns / 2 - k), sums + r * num_ranks + c * kBlockRows, num_ranks);
          });
    });
  Bf16* ranks = reserve(scratch.ranks, (num_rows + kSpareRows) * num_ranks);
  for (int64_t i = 0; i < (num_rows + kSpareRows) * num_ranks; i += kBlockRows) store_bf16(ranks + i, load<F32x16>(sums + i));
  for (int r = 0; r < num_rows; r += kBf16TileRows)
    for (int p = 0; p < adapter.num_pairs; ++p) {
      const hr_low_rank_pair& pair = adapter.pairs[p];
      const int64_t all = num_output_blocks(pair);
      for (int64_t block = 0; block < all; block += kSpan)
        with_blocks(all - block, [&](auto blocks) {
          with_tile<kBf16TileRows>(num_rows - r, [&](auto tile) {
            expand_tile<tile, blocks>(layer, pair, block, ranks + r * num_ranks + pair.first_rank, num_ranks, rows + r,
                                      std::min<int>(tile, num_rows - r));
          });
        });
    }
}

void many_rows(const Layer& layer, const Groups& rows) {
  struct Panel {
    const Group* group;
    int32_t first, count;
  };
  thread_local std::vector<Panel> panels;
  panels.clear();
  const int64_t share = static_cast<int64_t>(rows.order.size()) / (kTasksPerThread * num_threads());
  const int height = static_cast<int>(std::clamp<int64_t>(share / kLeastPanelRows * kLeastPanelRows, kLeastPanelRows, kPanelRows));
  for (const Group& group : rows.groups)
    for (int32_t first = 0; first < group.count; first += height)
      panels.push_back({&group, group.first + first, std::min<int32_t>(height, group.count - first)});
  const Panel* all = panels.data();  // not the thread-local itself: the tasks run on other threads
  parallel_for(static_cast<int64_t>(panels.size()), [&, all](int64_t task) {
    panel_task(layer, *all[task].group->adapter, rows.order.data() + all[task].first, all[task].count);
  });
}

}  // namespace

// x [M, K] (2K for gated inputs), bf16 or fp32, as the layer's own kernel took it; out [M, N], bf16 or fp32, what that gave.
// table: by slot. slots [M]: of each row, -1 for none. K is a multiple of 16.
HR_API void hr_adapt_rows(const void* x, int x_is_bf16, int64_t x_stride, int64_t num_rows, int64_t columns, int input_kind,
                          const float* input_weight, const float* input_bias, float eps, const hr_layer_adapter* table,
                          const int32_t* slots, void* out, int out_is_bf16, int64_t out_stride) {
  thread_local Groups rows;
  rows.find(table, slots, num_rows);
  if (rows.groups.empty()) return;
  const Layer layer{x,        x_stride, x_is_bf16 != 0, {static_cast<InputKind>(input_kind), input_weight, input_bias, eps},
                    num_rows, columns,  out,            out_stride,
                    out_is_bf16 != 0};
  if (static_cast<int64_t>(rows.order.size()) <= kFewRows) {
    thread_local FewRows few;
    few.run(layer, rows);
  } else {
    many_rows(layer, rows);
  }
}

HR_REPLAYABLE(hr_adapt_rows)
