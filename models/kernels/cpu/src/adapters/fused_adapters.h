// Adapters that a linear layer's own call computes: it has prepared the rows, and its sums are not yet rounded.
//
// Few rows: the tasks of FewRowShrink come before those of the layer, which read much more, so that nobody waits for them.
// Many rows: whoever prepares some rows shrinks them at once, and whoever computes a panel of outputs expands it.
#pragma once

#include <algorithm>
#include <vector>

#include "adapters/expand_sums.h"
#include "adapters/few_row_shrink.h"
#include "adapters/row_groups.h"

namespace hr {

constexpr int kShrinkRows = kShrinkTile<1>;  // that a task prepares and shrinks

class FusedAdapters {
 public:
  // What groups points to lives until the last call.
  void begin(const RowGroups& groups, const Output& out, int64_t columns) {
    groups_ = &groups;
    out_ = out;
    columns_ = columns;
  }

  // Whether all rows have an adapter.
  bool has_all() const { return groups_->order.size() == groups_->place.size(); }

  // The outputs of these sums, of those of rows sums.first_row .. end_row - 1 that have no adapter, as without this object.
  void put_others(const OutputSums& sums, int64_t end_row) const {
    for (int64_t row = sums.first_row; row < end_row; ++row) {
      if (groups_->place[row] >= 0) continue;
      for (int index = 0; index < sums.outputs; index += kBlockRows)
        out_.put(row, sums.column + index, std::min(kBlockRows, sums.outputs - index), load<F32x16>(sums.at(row, index)),
                 sums.bias ? sums.bias + index : nullptr);
    }
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

  // Asks for the weights that put_few() reads.
  void prefetch(int64_t column, int64_t outputs) const {
    for (const RowGroup& group : groups_->groups)
      for_each_pair_within(*group.adapter, column, outputs, [&](const hr_low_rank_pair& pair, int64_t first, int64_t end) {
        prefetch_lines(pair.b + first * low_rank_bytes(pair.rank), (end - first) * low_rank_bytes(pair.rank));
      });
  }

  // The outputs of these sums, of all rows that have an adapter. Waits for the tasks, which must have been begun.
  void put_few(const OutputSums& sums) const {
    const Bf16* ranks = few_.ranks();
    for (const RowGroup& group : groups_->groups) put(sums, group, group.first, group.count, ranks);
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

  // The outputs of these sums, of those of rows sums.first_row .. end_row - 1 that have an adapter.
  void put_many(const OutputSums& sums, int64_t end_row) const {
    groups_->for_each_within(sums.first_row, end_row, [&](const RowGroup& group, int32_t first, int32_t count) {
      put(sums, group, first, count, ranks_.data());
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

  // ranks: of all rows in the order of the groups
  void put(const OutputSums& sums, const RowGroup& group, int32_t first, int32_t count, const Bf16* ranks) const {
    const int64_t num_ranks = groups_->num_ranks();
    put_adapted(out_, sums, *group.adapter, ranks + first * num_ranks, num_ranks, groups_->order.data() + first, count);
  }

  const RowGroups* groups_ = nullptr;
  Output out_{};
  int64_t columns_ = 0;
  FewRowShrink few_;
  std::vector<Bf16> prepared_, ranks_;
};

}  // namespace hr
