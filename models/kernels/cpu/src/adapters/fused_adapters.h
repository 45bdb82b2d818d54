// Adapters that a linear layer's own call computes: it has prepared the rows, and adds to outputs while they are in the cache.
//
// Few rows: the tasks of FewRowShrink come before those of the layer, which read much more, so that nobody waits for them.
// Many rows: whoever prepares some rows shrinks them at once, and whoever computes a panel of outputs expands it.
#pragma once

#include <vector>

#include "adapters/few_row_shrink.h"
#include "adapters/low_rank_expand.h"
#include "adapters/row_groups.h"

namespace hr {

constexpr int kShrinkRows = kShrinkTile<1>;  // that a task prepares and shrinks

class FusedAdapters {
 public:
  // What these point to lives until the last call. Blocks of the pairs must be blocks of the layer: have_blocks_of().
  void begin(const RowGroups& groups, const OutputRows& out, int64_t columns) {
    groups_ = &groups;
    out_ = out;
    columns_ = columns;
  }

  // ---- few rows

  void plan_few() {
    few_.plan(*groups_, columns_);
    reserve(prepared_, (groups_->order.size() + kSpareRows) * columns_);
  }

  // Where a row goes in bf16 when it is prepared, or null if it has no adapter.
  Bf16* prepared(int64_t row) {
    const int32_t place = groups_->place[row];
    return place < 0 ? nullptr : prepared_.data() + place * columns_;
  }

  int64_t num_tasks() const { return few_.num_tasks(); }

  void run(int64_t task) {
    few_.run(task, prepared_.data(), [](int64_t, int64_t, int64_t, Bf16*) {});
  }

  // Asks for the weights that add_few() reads.
  void prefetch(int64_t column, int64_t outputs) const {
    for (const RowGroup& group : groups_->groups)
      for_each_pair_within(*group.adapter, column, outputs, [&](const hr_low_rank_pair& pair, int64_t first, int64_t end) {
        prefetch_lines(pair.b + first * low_rank_bytes(pair.rank), (end - first) * low_rank_bytes(pair.rank));
      });
  }

  // Adds to outputs column .. column + outputs - 1 of all rows. Waits for the tasks, which must have been begun.
  void add_few(int64_t column, int64_t outputs) const {
    for (const RowGroup& group : groups_->groups)
      for_each_pair_within(*group.adapter, column, outputs, [&](const hr_low_rank_pair& pair, int64_t first, int64_t end) {
        expand(out_, pair, first, end, few_.ranks(group, pair), FewRowShrink::rank_stride(pair),
               groups_->order.data() + group.first, group.count);
      });
  }

  // ---- many rows

  void plan_many() { reserve(ranks_, (groups_->order.size() + kSpareRows) * groups_->num_ranks()); }

  // prepare(row, out) for rows first_row .. end_row - 1: out [columns] bf16, or null if nobody needs the row.
  template <class Prepare>
  void shrink_rows_of(int64_t first_row, int64_t end_row, const Prepare& prepare) {
    for (int64_t row = first_row; row < end_row; ++row)
      if (groups_->place[row] < 0) prepare(row, nullptr);
    Scratch& scratch = thread_scratch<Scratch>();
    Bf16* rows = reserve(scratch.rows, (end_row - first_row + kSpareRows) * columns_);
    groups_->for_each_within(first_row, end_row, [&](const RowGroup& group, int32_t first, int32_t count) {
      for (int32_t i = 0; i < count; ++i) prepare(groups_->order[first + i], rows + i * columns_);
      const int64_t num_ranks = groups_->num_ranks();
      shrink_rows(*group.adapter, rows, columns_, count, ranks_.data() + first * num_ranks, num_ranks, scratch.sums);
    });
  }

  // Adds to outputs column .. column + outputs - 1 of rows first_row .. end_row - 1.
  void add_many(int64_t column, int64_t outputs, int64_t first_row, int64_t end_row) const {
    groups_->for_each_within(first_row, end_row, [&](const RowGroup& group, int32_t first, int32_t count) {
      for_each_pair_within(*group.adapter, column, outputs, [&](const hr_low_rank_pair& pair, int64_t block, int64_t end_block) {
        const int64_t num_ranks = groups_->num_ranks();
        expand(out_, pair, block, end_block, ranks_.data() + first * num_ranks + pair.first_rank, num_ranks,
               groups_->order.data() + first, count);
      });
    });
  }

 private:
  struct Scratch {
    std::vector<Bf16> rows;
    std::vector<float> sums;
  };

  static Bf16* reserve(std::vector<Bf16>& memory, size_t size) {
    if (memory.size() < size) memory.resize(size);
    return memory.data();
  }

  const RowGroups* groups_ = nullptr;
  OutputRows out_{};
  int64_t columns_ = 0;
  FewRowShrink few_;
  std::vector<Bf16> prepared_, ranks_;
};

}  // namespace hr
