// Adapters of a linear layer after its own call: out [M, N] = gain * out + b (a input(x)) + shift, for the rows that have one.
// low_rank.h says what is computed, and quantized_linear.cpp does the same in its own call. Rows are grouped by adapter, whatever
// their order, and each group reads its a and b once.
//
// Few rows: bound by memory, and short. One loop has tasks of two kinds: those of FewRowShrink; and runs of blocks of b, which ask
// for their weights and wait for all of the first kind.
//
// Many rows: bound by arithmetic. A task is a panel of rows of one adapter, from input to output.
#include <algorithm>
#include <vector>

#include "adapters/expand_stored.h"
#include "adapters/few_row_shrink.h"
#include "linear/linear_arguments.h"
#include "linear/row_input.h"
#include "runtime/parallel.h"
#include "runtime/replay.h"

using namespace hr;

namespace {

constexpr int kFewRows = 32;
constexpr int64_t kPrepareAlone = 16384;  // elements; up to here the caller is done before the others would have begun
constexpr int64_t kLeastTaskBytes = 8 << 10, kMostTaskBytes = 32 << 10;
constexpr int kTasksPerThread = 4;
constexpr int kPanelRows = 48, kLeastPanelRows = 12;  // whole register tiles

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
  void* out;  // [M, out_stride]
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

  // Blocks of a pair's outputs, as expand_stored() says.
  void expand(const hr_low_rank_pair& pair, int64_t first_block, int64_t end_block, const Bf16* ranks, int64_t rank_stride,
              const int32_t* rows, int count) const {
    const auto expand_as = [&](auto* data) {
      expand_stored(StoredOutputs<std::remove_pointer_t<decltype(data)>>{data, out_stride}, pair, first_block, end_block, ranks,
                    rank_stride, rows, count);
    };
    if (out_is_bf16)
      expand_as(static_cast<Bf16*>(out));
    else
      expand_as(static_cast<float*>(out));
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

// ---- few rows

struct ExpandTask {
  const RowGroup* group;
  const hr_low_rank_pair* pair;
  int64_t first_block, end_block;
};

void make_expand_tasks(const RowGroups& rows, std::vector<ExpandTask>& tasks) {
  int64_t bytes = 0;
  const auto pair_bytes = [](const hr_low_rank_pair& pair) { return num_output_blocks(pair) * low_rank_bytes(pair.rank); };
  for (const RowGroup& group : rows.groups)
    for (int p = 0; p < group.adapter->num_pairs; ++p) bytes += pair_bytes(group.adapter->pairs[p]);
  const int64_t task_bytes = std::clamp(bytes / (kTasksPerThread * num_threads()), kLeastTaskBytes, kMostTaskBytes);
  tasks.clear();
  for (const RowGroup& group : rows.groups)
    for (int p = 0; p < group.adapter->num_pairs; ++p) {
      const hr_low_rank_pair& pair = group.adapter->pairs[p];
      const int64_t blocks = num_output_blocks(pair), run = std::max<int64_t>(1, task_bytes / low_rank_bytes(pair.rank));
      for (int64_t block = 0; block < blocks; block += run)
        tasks.push_back({&group, &pair, block, std::min(block + run, blocks)});
    }
}

const Bf16* prepare_rows(const Layer& layer, const RowGroups& rows, std::vector<Bf16>& memory) {
  const int64_t count = rows.order.size(), columns = layer.columns;
  Bf16* prepared = reserve(memory, (count + kSpareRows) * columns);
  parallel_for(count, std::max<int64_t>(1, kPrepareAlone / columns), [&](int64_t i) {
    layer.prepare(rows.order[i], reserve(thread_scratch<Scratch>().floats, columns), prepared + i * columns);
  });
  return prepared;
}

void few_rows(const Layer& layer, const RowGroups& rows) {
  struct Memory {
    FewRowShrink shrink;
    std::vector<ExpandTask> tasks;
    std::vector<Bf16> prepared;
  };
  Memory& memory = thread_scratch<Memory>();  // of the caller, also in the tasks
  memory.shrink.plan(rows, layer.columns);
  make_expand_tasks(rows, memory.tasks);
  const Bf16* prepared = is_norm(layer.input.kind) ? prepare_rows(layer, rows, memory.prepared) : nullptr;
  const int64_t num_shrink = memory.shrink.num_tasks();
  parallel_for(num_shrink + static_cast<int64_t>(memory.tasks.size()), [&](int64_t index) {
    if (index < num_shrink)
      return memory.shrink.run(index, prepared, [&](int64_t row, int64_t first, int64_t count, Bf16* out) {
        layer.prepare_part(row, first, count, reserve(thread_scratch<Scratch>().floats, count), out);
      });
    const ExpandTask& task = memory.tasks[index - num_shrink];
    const int64_t stride = low_rank_bytes(task.pair->rank);
    prefetch_lines(task.pair->b + task.first_block * stride, (task.end_block - task.first_block) * stride);
    const int64_t num_ranks = rows.num_ranks();
    layer.expand(*task.pair, task.first_block, task.end_block,
                 memory.shrink.ranks() + task.group->first * num_ranks + task.pair->first_rank, num_ranks,
                 rows.order.data() + task.group->first, task.group->count);
  });
}

// ---- many rows

void panel_task(const Layer& layer, const hr_layer_adapter& adapter, const int32_t* rows, int num_rows) {
  Scratch& scratch = thread_scratch<Scratch>();
  const int64_t columns = layer.columns, num_ranks = static_cast<int64_t>(adapter.num_blocks) * kBlockRows;
  Bf16* prepared = reserve(scratch.rows, (num_rows + kSpareRows) * columns);
  for (int r = 0; r < num_rows; ++r) layer.prepare(rows[r], reserve(scratch.floats, columns), prepared + r * columns);
  Bf16* ranks = reserve(scratch.ranks, (num_rows + kSpareRows) * num_ranks);
  shrink_rows(adapter, prepared, columns, num_rows, ranks, num_ranks, scratch.sums);
  for (int r = 0; r < num_rows; r += kDenseTileRows)  // a tile's outputs stay in the cache from pair to pair
    for (int p = 0; p < adapter.num_pairs; ++p)
      layer.expand(adapter.pairs[p], 0, num_output_blocks(adapter.pairs[p]), ranks + r * num_ranks + adapter.pairs[p].first_rank,
                   num_ranks, rows + r, std::min(kDenseTileRows, num_rows - r));
}

void many_rows(const Layer& layer, const RowGroups& rows) {
  struct Panel {
    const RowGroup* group;
    int32_t first, count;
  };
  thread_local std::vector<Panel> panels;
  panels.clear();
  const int64_t share = static_cast<int64_t>(rows.order.size()) / (kTasksPerThread * num_threads());
  const int height = static_cast<int>(std::clamp<int64_t>(share / kLeastPanelRows * kLeastPanelRows, kLeastPanelRows, kPanelRows));
  for (const RowGroup& group : rows.groups)
    for (int32_t first = 0; first < group.count; first += height)
      panels.push_back({&group, group.first + first, std::min<int32_t>(height, group.count - first)});
  const Panel* all = panels.data();  // not the thread-local itself: the tasks run on other threads
  parallel_for(static_cast<int64_t>(panels.size()), [&, all](int64_t task) {
    panel_task(layer, *all[task].group->adapter, rows.order.data() + all[task].first, all[task].count);
  });
}

}  // namespace

// The rows as the layer's own kernel took them; out [M, N], bf16 or fp32, what that gave.
// table: by slot. slots [M]: of each row, -1 for none. K is a multiple of 16.
HR_API void hr_adapt_rows(HR_INPUT_PARAMETERS, const hr_layer_adapter* table, const int32_t* slots, void* out, int out_is_bf16,
                          int64_t out_stride) {
  thread_local RowGroups rows;
  rows.find(table, slots, num_rows);
  if (rows.groups.empty()) return;
  const Layer layer{x,        x_stride, x_is_bf16 != 0, {static_cast<InputKind>(input_kind), input_weight, input_bias, eps},
                    num_rows, columns,  out,                out_stride,   out_is_bf16 != 0};
  if (static_cast<int64_t>(rows.order.size()) <= kFewRows)
    few_rows(layer, rows);
  else
    many_rows(layer, rows);
}

HR_REPLAYABLE(hr_adapt_rows)
