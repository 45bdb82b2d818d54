// The matrices of a linear layer, side by side over one input, cut into row blocks of 16 outputs.
#pragma once

#include <algorithm>

#include "simd/simd.h"

// One matrix; its outputs follow those of the segment before.
struct hr_segment {
  int32_t format;  // Format of codecs.h or the word of a ScaledFormat; not looked at by the bf16 kernels
  int32_t rows;
  const uint8_t* packed;
  const float* bias;   // [rows] or null
  int64_t group_size;  // columns that share a scale, of scaled codes only
};

namespace hr {

constexpr int kBlockRows = 16;

inline int64_t num_row_blocks(const hr_segment& segment) { return (segment.rows + kBlockRows - 1) / kBlockRows; }

// A run of consecutive row blocks within one segment.
struct BlockPlace {
  const hr_segment* segment;
  int64_t block;      // first one, within the segment
  int64_t column;     // of the output
  int outputs;
  const float* bias;  // of the first output, or null
};

inline int64_t num_places(const hr_segment* segments, int num_segments, int span) {
  int64_t places = 0;
  for (int s = 0; s < num_segments; ++s) places += (num_row_blocks(segments[s]) + span - 1) / span;
  return places;
}

// Row blocks that a thread takes at a time where memory is the limit: some 256 KiB, since a stream takes a few KiB to get going
// and reads some beyond its end; no more than a quarter of a thread's share, so that one that was delayed holds up the rest
// little.
inline int64_t streamed_blocks(int64_t block_bytes, int64_t num_blocks, int num_threads) {
  return std::max<int64_t>(1, std::min<int64_t>(262144 / block_bytes, num_blocks / (4 * num_threads)));
}

// Of up to `span` blocks.
inline BlockPlace place_block(const hr_segment* segments, int64_t index, int span = 1) {
  int64_t column = 0;
  for (const hr_segment* s = segments;; ++s) {
    const int64_t places = (num_row_blocks(*s) + span - 1) / span;
    if (index < places) {
      const int64_t first = index * span * kBlockRows;
      return {s, index * span, column + first, static_cast<int>(std::min<int64_t>(span * kBlockRows, s->rows - first)),
              s->bias ? s->bias + first : nullptr};
    }
    index -= places;
    column += s->rows;
  }
}

// f(place) for row blocks first .. end - 1, in one place for each segment
template <class Function>
void for_each_run(const hr_segment* segments, int64_t first, int64_t end, const Function& f) {
  while (first < end) {
    BlockPlace place = place_block(segments, first);
    const int64_t blocks = std::min(end - first, num_row_blocks(*place.segment) - place.block);
    place.outputs = static_cast<int>(std::min<int64_t>(blocks * kBlockRows, place.segment->rows - place.block * kBlockRows));
    f(place);
    first += blocks;
  }
}

}  // namespace hr
