// Mixture of experts: out [M, K] (+)= sum over a row's chosen experts (router.h) of weight * down(act(up(row))). The choice of
// experts stays inside this call, so that a step with experts is a fixed sequence of calls.
//
// Pairs (row, expert) are sorted by expert. Each matrix is cut into slices of row blocks, and a task is one expert's
// slice times all of the expert's rows: one call of the weights' linear kernel, which within a parallel loop runs on its
// thread alone. The task gathers the rows if they are not neighbors, and each slice's call prepares them again: so there are
// only as many slices as keep the threads busy. With one row there is a task for each chosen expert and slice, so that
// decoding streams the chosen experts' weights from memory on all threads.
//
//   rows [M, K] --gather--> up tasks --> inner [pairs, I or 2 I] --> down tasks (activation) --> results [pairs, K] --> out
//
// Many rows are computed in panels, so that inner and results stay bounded. Experts may take other rows than the router, of
// another size L, which the results then have, too.
#include <algorithm>
#include <numeric>
#include <vector>

#include "experts/router.h"
#include "linear/linear_kernels.h"
#include "linear/row_input.h"
#include "runtime/parallel.h"
#include "runtime/replay.h"

using namespace hr;

enum class LinearKernel : int32_t { kQuantized, kBf16, kScaled };

// A linear layer of an expert, computed by one kernel.
struct hr_expert_linear {
  const hr_segment* segments;
  const int64_t* row_block_bytes;  // of each segment: of 16 rows
  const int32_t* permutation;      // this and the rest: of kScaled only
  int32_t num_segments, kernel, rounding;
  float input_scale;
};

struct hr_moe {
  hr_router router;
  int32_t scales_input;  // the weight multiplies an expert's input, else its output
  int32_t activation;    // InputKind between the two layers
  const float* activation_weight;
  const hr_expert_linear *up, *down;  // [E]
  int64_t columns;                    // L, of the experts' inputs and results: that of the router's rows, or another
  int64_t inner, inner_columns;       // I, columns of what `up` gives: I or 2 I
  int64_t* rows_per_expert;           // [E], added to
};

namespace {

constexpr int64_t kPanelBytes = 64 << 20;     // of inner and results
constexpr int64_t kSliceBytes = 32 << 10;     // of weights: less is not worth a task
constexpr int64_t kCombinedAlone = 16 << 10;  // numbers that are not worth a second thread
constexpr int kTasksPerThread = 4;
constexpr int kSliceBlocks = 2;  // kernels take two blocks at a time

// Pairs of a panel of rows, expert by expert.
struct Pairs {
  std::vector<int32_t> row, place;  // [pairs]: each one's row within the panel; and the position of the pair (row, j)
  std::vector<float> weight;        // [pairs]
  std::vector<int32_t> first;       // [E + 1]: of each expert's
  std::vector<int32_t> active;      // experts with rows, the one with most rows first, so that the last tasks are short

  void sort(const hr_moe& moe, const Routing& routing, int64_t from, int64_t count) {
    const int64_t pairs = count * moe.router.chosen;
    const int32_t* experts = &routing.experts[from * moe.router.chosen];
    first.assign(moe.router.num_experts + 1, 0);
    for (int64_t p = 0; p < pairs; ++p) ++first[experts[p] + 1];
    active.clear();
    for (int e = 0; e < moe.router.num_experts; ++e) {
      if (first[e + 1]) active.push_back(e);
      moe.rows_per_expert[e] += first[e + 1];
    }
    const auto num_rows = [&](int e) { return first[e + 1]; };
    std::stable_sort(active.begin(), active.end(), [&](int a, int b) { return num_rows(a) > num_rows(b); });
    std::partial_sum(first.begin(), first.end(), first.begin());
    row.resize(pairs), place.resize(pairs), weight.resize(pairs);
    next.assign(first.begin(), first.end() - 1);
    for (int64_t p = 0; p < pairs; ++p) {
      const int32_t at = next[experts[p]]++;
      row[at] = static_cast<int32_t>(p / moe.router.chosen);
      place[p] = at;
      weight[at] = routing.weights[from * moe.router.chosen + p];
    }
  }

  int count(int expert) const { return first[expert + 1] - first[expert]; }

 private:
  std::vector<int32_t> next;  // [E]: where the expert's next pair goes
};

struct Task {
  int32_t expert;
  int64_t first_block, end_block;  // of the layer's segments side by side
};

int64_t num_blocks(const hr_expert_linear& linear) { return num_places(linear.segments, linear.num_segments, 1); }

// Slices of the active experts' matrices: several per thread, divided among experts by their rows.
void make_tasks(const hr_expert_linear* linears, const Pairs& pairs, std::vector<Task>& tasks) {
  tasks.clear();
  const int64_t all = pairs.first.back(), target = kTasksPerThread * num_threads();
  for (const int expert : pairs.active) {
    const hr_expert_linear& linear = linears[expert];
    const int64_t blocks = num_blocks(linear);
    const int64_t least = std::max<int64_t>(kSliceBlocks, kSliceBytes / linear.row_block_bytes[0]);
    const int64_t slices = std::max<int64_t>(1, std::min((target * pairs.count(expert) + all - 1) / all, blocks / least));
    const int64_t size = ((blocks + slices - 1) / slices + kSliceBlocks - 1) / kSliceBlocks * kSliceBlocks;
    for (int64_t first = 0; first < blocks; first += size) tasks.push_back({expert, first, std::min(first + size, blocks)});
  }
}

// f(segments, their number, column of the first one's first output) for the blocks of a task
template <class Function>
void with_slice(const hr_expert_linear& linear, const Task& task, const Function& f) {
  hr_segment slice[2];
  int count = 0;
  int64_t block = 0, column = 0, first_column = 0;
  for (int s = 0; s < linear.num_segments; ++s) {
    const hr_segment& segment = linear.segments[s];
    const int64_t end = block + num_row_blocks(segment);
    const int64_t from = std::max(task.first_block, block), to = std::min(task.end_block, end);
    if (from < to) {
      const int64_t skipped = (from - block) * kBlockRows;
      if (count == 0) first_column = column + skipped;
      slice[count] = segment;
      slice[count].packed += (from - block) * linear.row_block_bytes[s];
      slice[count].rows = static_cast<int32_t>(std::min<int64_t>(segment.rows - skipped, (to - from) * kBlockRows));
      if (segment.bias) slice[count].bias += skipped;
      ++count;
    }
    block = end;
    column += segment.rows;
  }
  f(slice, count, first_column);
}

// out [rows, its columns] fp32 = a slice of a layer over x [rows, columns] fp32
void multiply(const hr_expert_linear& linear, const Task& task, const float* x, int64_t x_stride, int64_t rows, int64_t columns,
              const InputSpec& input, float* out, int64_t out_stride) {
  with_slice(linear, task, [&](const hr_segment* segments, int count, int64_t column) {
    const int kind = static_cast<int>(input.kind);
    switch (static_cast<LinearKernel>(linear.kernel)) {
      case LinearKernel::kQuantized:
        return hr_quantized_linear(x, 0, x_stride, rows, columns, kind, input.weight, nullptr, 0, segments, count, out + column,
                                   0, out_stride, nullptr, 0);
      case LinearKernel::kBf16:
        return hr_bf16_linear(x, 0, x_stride, rows, columns, kind, input.weight, nullptr, 0, segments, count, out + column, 0,
                              out_stride, nullptr, 0);
      case LinearKernel::kScaled:
        return hr_scaled_linear(x, 0, x_stride, rows, columns, kind, input.weight, nullptr, 0, segments, count, out + column, 0,
                                out_stride, nullptr, 0, linear.permutation, linear.rounding, linear.input_scale);
    }
  });
}

// The rows of an expert, contiguous: in place if they are neighbors and not weighted, else copied.
const float* gather(const hr_moe& moe, const Pairs& pairs, int expert, const float* rows) {
  const int64_t columns = moe.columns;
  const int first = pairs.first[expert], count = pairs.count(expert);
  const int32_t start = pairs.row[first];
  if (!moe.scales_input && pairs.row[first + count - 1] - start == count - 1) return rows + start * columns;
  thread_local std::vector<float> memory;
  if (memory.size() < static_cast<size_t>(count * columns)) memory.resize(count * columns);
  for (int i = 0; i < count; ++i) {
    const float* from = rows + pairs.row[first + i] * columns;
    float* to = memory.data() + i * columns;
    const F32x16 weight = broadcast(moe.scales_input ? pairs.weight[first + i] : 1.0f);
    for (int64_t k = 0; k < columns; k += 16) store(to + k, load<F32x16>(from + k) * weight);
  }
  return memory.data();
}

// out [pairs, out_columns] = one of the two layers of all active experts over x(expert): [its rows, x_stride]
template <class Rows>
void compute_layer(const hr_expert_linear* linears, const Pairs& pairs, const Rows& x, int64_t x_stride, int64_t columns,
                   const InputSpec& input, std::vector<float>& out, int64_t out_columns) {
  std::vector<Task>& tasks = thread_scratch<std::vector<Task>>();
  if (out.size() < pairs.row.size() * out_columns) out.resize(pairs.row.size() * out_columns);
  make_tasks(linears, pairs, tasks);
  parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t t) {
    const int expert = tasks[t].expert;
    multiply(linears[expert], tasks[t], x(expert), x_stride, pairs.count(expert), columns, input,
             &out[pairs.first[expert] * out_columns], out_columns);
  });
}

struct PanelMemory {
  Pairs pairs;
  std::vector<float> inner, results;
};

void compute_panel(const hr_moe& moe, const float* rows, PanelMemory& memory) {
  const Pairs& pairs = memory.pairs;
  const int64_t columns = moe.columns;
  const InputSpec plain{InputKind::kPlain, nullptr, nullptr, 0};
  const InputSpec activation{static_cast<InputKind>(moe.activation), moe.activation_weight, nullptr, 0};
  compute_layer(moe.up, pairs, [&](int expert) { return gather(moe, pairs, expert, rows); }, columns, columns, plain,
                memory.inner, moe.inner_columns);
  compute_layer(moe.down, pairs, [&](int expert) { return &memory.inner[pairs.first[expert] * moe.inner_columns]; },
                moe.inner_columns, moe.inner, activation, memory.results, columns);
}

// out (+)= weighted sum of the row's experts' results (+ gate * shared)
template <class Element>
void combine(const hr_moe& moe, const PanelMemory& memory, int64_t row, const float* shared, float gate, Element* out,
             bool adds) {
  const int64_t columns = moe.columns;
  const int32_t* place = &memory.pairs.place[row * moe.router.chosen];
  for (int64_t k = 0; k < columns; k += 16) {
    F32x16 sum = adds ? load_lanes(out + k) : broadcast(0.0f);
    if (shared) sum = fma(load<F32x16>(shared + k), broadcast(gate), sum);
    for (int j = 0; j < moe.router.chosen; ++j) {
      const float weight = moe.scales_input ? 1.0f : memory.pairs.weight[place[j]];
      sum = fma(load<F32x16>(&memory.results[place[j] * columns + k]), broadcast(weight), sum);
    }
    store_lanes(out + k, sum);
  }
}

template <class Element>
void run(const hr_moe& moe, const float* rows, const float* inputs, int64_t num_rows, const float* shared, Element* out,
         bool adds) {
  Routing& routing = thread_scratch<Routing>();
  PanelMemory& memory = thread_scratch<PanelMemory>();
  const int64_t columns = moe.columns, chosen = moe.router.chosen;
  route(moe.router, rows, num_rows, routing);
  const int64_t row_bytes = chosen * (moe.inner_columns + columns) * sizeof(float);
  const int64_t panel = std::max<int64_t>(1, kPanelBytes / row_bytes);
  for (int64_t from = 0; from < num_rows; from += panel) {
    const int64_t count = std::min(panel, num_rows - from);
    memory.pairs.sort(moe, routing, from, count);
    compute_panel(moe, inputs + from * columns, memory);
    parallel_for(count, std::max<int64_t>(1, kCombinedAlone / (columns * chosen)), [&](int64_t r) {
      const int64_t row = from + r;
      const float gate = moe.router.shared_gate ? routing.gates[row] : 1.0f;
      combine(moe, memory, r, shared ? shared + row * columns : nullptr, gate, out + row * columns, adds);
    });
  }
}

}  // namespace

// rows [M, K] fp32: input of the router. inputs [M, L] fp32: of the experts. shared: null, or [M, L] fp32, the shared expert's
// output. out [M, L], bf16 or fp32, contiguous: with `adds` it is added to, else overwritten. K, L and I are multiples of 16.
HR_API void hr_moe_rows(const hr_moe* moe, const float* rows, const float* inputs, int64_t num_rows, const float* shared,
                        void* out, int out_is_bf16, int adds) {
  if (out_is_bf16)
    run(*moe, rows, inputs, num_rows, shared, static_cast<Bf16*>(out), adds != 0);
  else
    run(*moe, rows, inputs, num_rows, shared, static_cast<float*>(out), adds != 0);
}

HR_REPLAYABLE(hr_moe_rows)

// The router alone: experts [M, chosen] and their weights, of rows [M, K] fp32.
HR_API void hr_route_rows(const hr_router* router, const float* rows, int64_t num_rows, int32_t* experts, float* weights) {
  Routing& routing = thread_scratch<Routing>();
  route(*router, rows, num_rows, routing);
  std::copy_n(routing.experts.begin(), num_rows * router->chosen, experts);
  std::copy_n(routing.weights.begin(), num_rows * router->chosen, weights);
}
