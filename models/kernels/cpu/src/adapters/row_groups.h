// The rows of a step by their adapters. A row's adapter is found through its slot, in a table whose address does not change, so
// that a recorded step stays valid while adapters come and go.
#pragma once

#include <algorithm>
#include <vector>

#include "adapters/low_rank.h"

namespace hr {

// Rows order[first .. first + count - 1] have this adapter.
struct RowGroup {
  const hr_layer_adapter* adapter;
  int32_t first, count;
};

struct RowGroups {
  std::vector<RowGroup> groups;
  std::vector<int32_t> order;  // rows with an adapter, group after group, in each by their numbers
  std::vector<int32_t> place;  // of each row in `order`, or -1
  int32_t num_blocks;          // most of a group

  int64_t num_ranks() const { return static_cast<int64_t>(num_blocks) * kBlockRows; }

  void find(const hr_layer_adapter* table, const int32_t* slots, int64_t num_rows) {
    groups.clear();
    place.resize(num_rows);
    num_blocks = 0;
    size_t last = 0;
    for (int64_t row = 0; row < num_rows; ++row) {
      place[row] = -1;
      const hr_layer_adapter* adapter = slots[row] < 0 ? nullptr : table + slots[row];
      if (!adapter || !adapter->a) continue;
      if (last >= groups.size() || groups[last].adapter != adapter)
        for (last = 0; last < groups.size() && groups[last].adapter != adapter; ++last) {
        }
      if (last == groups.size()) groups.push_back({adapter, 0, 0});
      ++groups[last].count;
      num_blocks = std::max(num_blocks, adapter->num_blocks);
      place[row] = static_cast<int32_t>(last);
    }
    int32_t total = 0;
    for (RowGroup& group : groups) {
      group.first = total;
      total += group.count;
      group.count = 0;
    }
    order.resize(total);
    for (int64_t row = 0; row < num_rows; ++row)
      if (place[row] >= 0) {
        RowGroup& group = groups[place[row]];
        place[row] = group.first + group.count++;
        order[place[row]] = static_cast<int32_t>(row);
      }
  }

  // f(group, first, count) for each group with rows among first_row .. end_row - 1, which are order[first .. first + count - 1]
  template <class Function>
  void for_each_within(int64_t first_row, int64_t end_row, const Function& f) const {
    for (const RowGroup& group : groups) {
      const int32_t* begin = order.data() + group.first;
      const int32_t* first = std::lower_bound(begin, begin + group.count, static_cast<int32_t>(first_row));
      const int32_t* end = std::lower_bound(first, begin + group.count, static_cast<int32_t>(end_row));
      if (first < end) f(group, static_cast<int32_t>(first - order.data()), static_cast<int32_t>(end - first));
    }
  }
};

}  // namespace hr
