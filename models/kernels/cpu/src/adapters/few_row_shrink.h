// The first half of adapters where rows are few: bound by memory, and short. It is cut into tasks, parts of the columns of a, so
// that all threads read. Whoever ends the last one adds the parts up. Tasks are begun before those that wait for them, so that
// what is waited for is always under way.
#pragma once

#include <atomic>
#include <thread>
#include <vector>

#include "adapters/low_rank_shrink.h"
#include "adapters/row_groups.h"
#include "runtime/parallel.h"
#include "simd/streaming.h"

namespace hr {

class FewRowShrink {
 public:
  // groups and what they point to live until the last call.
  void plan(const RowGroups& groups, int64_t columns) {
    groups_ = &groups;
    columns_ = columns;
    num_parts_ = num_parts(columns);
    num_ranks_ = groups.num_ranks();
    tasks_.clear();
    int64_t bytes = 0;
    for (const RowGroup& group : groups.groups) bytes += group.adapter->num_blocks * low_rank_bytes(columns);
    const int64_t task_bytes = std::clamp(bytes / (kTasksPerThread * num_threads()), kLeastTaskBytes, kMostTaskBytes);
    for (const RowGroup& group : groups.groups) {
      const int64_t parts = std::max<int64_t>(1, task_bytes / (group.adapter->num_blocks * low_rank_bytes(2 * kPartPairs)));
      for (int64_t part = 0; part < num_parts_; part += parts)
        tasks_.push_back({&group, part, std::min(part + parts, num_parts_)});
    }
    const size_t rows = groups.order.size(), size = rows * num_parts_ * num_ranks_;
    if (partial_.size() < size) partial_.resize(size);
    if (ranks_.size() < (rows + kSpareRows) * num_ranks_) ranks_.resize((rows + kSpareRows) * num_ranks_);
    num_unfinished_.store(num_tasks(), std::memory_order_relaxed);
    has_ranks_.store(false, std::memory_order_relaxed);
  }

  int64_t num_tasks() const { return static_cast<int64_t>(tasks_.size()); }

  // prepared: rows in the order of the groups, [rows + kSpareRows][columns]. Or null, and then prepare_part(row, first column,
  // number, out) gives some columns of a row, bf16.
  template <class PreparePart>
  void run(int64_t index, const Bf16* prepared, const PreparePart& prepare_part) {
    const Task& task = tasks_[index];
    const RowGroup& group = *task.group;
    const int64_t first_column = 2 * kPartPairs * task.first_part, stride = low_rank_bytes(columns_);
    const int64_t columns = std::min(2 * kPartPairs * task.end_part, columns_) - first_column;
    const uint8_t* a = group.adapter->a + low_rank_bytes(first_column);
    for (int c = 0; c < group.adapter->num_blocks; ++c) prefetch_lines(a + c * stride, low_rank_bytes(columns));
    const Bf16* rows;
    int64_t row_stride;
    if (prepared) {
      rows = prepared + group.first * columns_ + first_column, row_stride = columns_;
    } else {
      std::vector<Bf16>& part = thread_scratch<Scratch>().rows;
      if (part.size() < static_cast<size_t>((group.count + kSpareRows) * columns)) part.resize((group.count + kSpareRows) * columns);
      for (int r = 0; r < group.count; ++r) prepare_part(groups_->order[group.first + r], first_column, columns, part.data() + r * columns);
      rows = part.data(), row_stride = columns;
    }
    for (int c = 0; c < group.adapter->num_blocks; ++c)
      for (int r = 0; r < group.count; r += kMostSharedBf16)
        parts_of_few(a + c * stride, rows + r * row_stride, row_stride, columns / 2, std::min(kMostSharedBf16, group.count - r),
                     [&](int row, int64_t part, const F32x16& sums) {
                       store(partial(group.first + r + row, task.first_part + part) + c * kBlockRows, sums);
                     });
    if (num_unfinished_.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    add_parts();
    has_ranks_.store(true, std::memory_order_release);
  }

  // The ranks of the rows in the order of the groups, [rows + kSpareRows][groups.num_ranks()], once all tasks are done: it waits
  // for them.
  const Bf16* ranks() const {
    for (int look = 0; !has_ranks_.load(std::memory_order_acquire); ++look)
      if (look >= kLooksBeforeYield) std::this_thread::yield();  // a thread that has a part was descheduled
    return ranks_.data();
  }

 private:
  static constexpr int64_t kLeastTaskBytes = 8 << 10, kMostTaskBytes = 32 << 10;
  static constexpr int kTasksPerThread = 4, kLooksBeforeYield = 4096;

  struct Task {
    const RowGroup* group;
    int64_t first_part, end_part;
  };

  struct Scratch {
    std::vector<Bf16> rows;
  };

  void add_parts() {
    for (const RowGroup& group : groups_->groups)
      for (int64_t place = group.first; place < group.first + group.count; ++place)
        for (int64_t k = 0; k < group.adapter->num_blocks * kBlockRows; k += kBlockRows) {
          F32x16 sum = broadcast(0.0f);
          for (int64_t part = 0; part < num_parts_; ++part) sum = sum + load<F32x16>(partial(place, part) + k);
          store_bf16(ranks_.data() + place * num_ranks_ + k, sum);
        }
  }

  // [ranks] of a row, by its place in the groups' order
  float* partial(int64_t place, int64_t part) { return partial_.data() + (place * num_parts_ + part) * num_ranks_; }

  const RowGroups* groups_ = nullptr;
  int64_t columns_ = 0, num_parts_ = 0, num_ranks_ = 0;
  std::vector<Task> tasks_;
  std::vector<float> partial_;
  std::vector<Bf16> ranks_;
  alignas(64) std::atomic<int64_t> num_unfinished_{0};
  std::atomic<bool> has_ranks_{false};
};

}  // namespace hr
