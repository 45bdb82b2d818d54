// Rows of packed matrices by number, in runs: what is unpacked for one row of a block is there for the others too.
#pragma once

#include <algorithm>

#include "linear/segments.h"
#include "runtime/parallel.h"

namespace hr {

// f(i, block, lane, count): ids[i] .. ids[i + count - 1] are rows lane .. lane + count - 1 of the block. Threads share the ids.
template <class Function>
void for_row_runs(const int64_t* ids, int64_t num_ids, const Function& f) {
  parallel_for((num_ids + kBlockRows - 1) / kBlockRows, [&](int64_t chunk) {
    const int64_t end = std::min(num_ids, (chunk + 1) * kBlockRows);
    for (int64_t i = chunk * kBlockRows; i < end;) {
      const int64_t lane = ids[i] % kBlockRows, limit = std::min(kBlockRows - lane, end - i);
      int64_t count = 1;
      while (count < limit && ids[i + count] == ids[i] + count) ++count;
      f(i, ids[i] / kBlockRows, static_cast<int>(lane), static_cast<int>(count));
      i += count;
    }
  });
}

}  // namespace hr
