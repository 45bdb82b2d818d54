// Quantized linear layers of many rows on AMX: the tasks of quantized_linear.cpp, but weights are dequantized to bf16 once a step,
// and multiplied in tiles with activations rounded to bf16 (amx.h). That is faster than scaling the integer sums of every group,
// and more exact.
#pragma once

#include "linear/amx.h"

#if HR_AMX
#include <algorithm>
#include <cstring>
#include <vector>

#include "linear/linear_layer.h"
#include "quantized/codecs.h"
#include "quantized/integer_panel.h"
#include "runtime/parallel.h"

namespace hr {

constexpr int kAmxRows = 32;        // fewer do not pay for the dequantization
constexpr int kAmxPanelRows = 512;  // many, since a panel dequantizes all weights that it meets

struct AmxPanelMemory {
  alignas(64) uint8_t weights[2][kStepGroups][kAmxTileBytes];
  alignas(64) float sums[kAmxPanelRows][2 * kBlockRows];
};

// A group's weights in bf16, [16 pairs of columns][16 rows][2]: one tile.
template <class Codec>
HR_INLINE void dequantize_tile(const Group& g, uint8_t* tile) {
  alignas(64) static constexpr uint16_t kInterleave[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                           8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i interleave = _mm512_load_si512(kInterleave), byte = _mm512_set1_epi32(0xff);
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    const int s = Codec::kScales == 2 ? v * 2 / kVectors : 0;
    const F32x16& scale = g.scale[s];
    F32x16 base = broadcast(static_cast<float>(-Codec::kOffset)) * scale;
    if constexpr (Codec::kHasMinimum) base = g.minimum[s];
    __m512 columns[4];
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const __m512i code = _mm512_and_si512(_mm512_srli_epi32((__m512i)g.codes[v].r[0], 8 * c), byte);
      columns[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(code), (__m512)scale.r[0], (__m512)base.r[0]);
    }
#pragma GCC unroll 2
    for (int pair = 0; pair < 2; ++pair) {
      const __m512bh both = _mm512_cvtne2ps_pbh(columns[2 * pair + 1], columns[2 * pair]);
      _mm512_store_si512(tile + 64 * (2 * v + pair), _mm512_permutexvar_epi16(interleave, (__m512i)both));
    }
  }
}

template <class Codec>
__attribute__((noinline)) void dequantize_step(const uint8_t* block, int64_t first_group, int num_groups,
                                               uint8_t (*tiles)[kAmxTileBytes]) {
  for (int i = 0; i < num_groups; ++i) {
    const int64_t u = (first_group + i) / 2;
    dequantize_tile<Codec>(
        Codec::unpack(header_address<Codec>(block, u), unit_address<Codec>(block, u), (first_group + i) % 2), tiles[i]);
  }
}

inline void amx_panel_task(const LinearLayer& layer, const Bf16* tiles, int64_t index, int64_t first_row, int num_rows, AmxPanelMemory& memory) {
  const BlockPlace place = place_block(layer.segments, index, 2);
  const int num_blocks = (place.outputs + kBlockRows - 1) / kBlockRows;
  std::memset(memory.sums, 0, sizeof(memory.sums));
  const AmxTiles registers;
  with_codec(static_cast<Format>(place.segment->format), [&](auto codec) {
    using Codec = decltype(codec);
    const int64_t stride = block_bytes<Codec>(layer.columns), groups = layer.columns / kGroup;
    const uint8_t* block = place.segment->packed + place.block * stride;
    for (int64_t group = 0; group < groups; group += kStepGroups) {
      const int num_groups = static_cast<int>(std::min<int64_t>(kStepGroups, groups - group));
      for (int c = 0; c < num_blocks; ++c) dequantize_step<Codec>(block + c * stride, group, num_groups, memory.weights[c]);
      amx_multiply(tiles + first_row * layer.columns + group * kGroup * kAmxTileRows, layer.columns, num_rows, memory.weights,
                   sizeof(memory.weights[0]), num_blocks, num_groups, memory.sums[0], 2 * kBlockRows);
    }
  });
  put_panel(layer, place, first_row, num_rows, memory.sums);
}

inline void many_rows_amx(const LinearLayer& layer) {
  const int64_t num_pairs = num_places(layer.segments, layer.num_segments, 2);
  const int64_t num_panels = (layer.num_rows + kAmxPanelRows - 1) / kAmxPanelRows;
  constexpr int kStep = 2 * kAmxTileRows;
  const int64_t height = ((layer.num_rows + num_panels - 1) / num_panels + kStep - 1) / kStep * kStep;
  thread_local std::vector<Bf16> memory;
  if (static_cast<int64_t>(memory.size()) < (layer.num_rows + kStep) * layer.columns)
    memory.resize((layer.num_rows + kStep) * layer.columns);
  Bf16* tiles = memory.data();
  parallel_for(layer.num_rows, 4, [&](int64_t r) {
    prepare_amx_row(layer.input, layer.input_row(r), layer.x_is_bf16, layer.columns, r, tiles);
  });
  parallel_for(num_panels * num_pairs, [&](int64_t task) {
    const int64_t first_row = task / num_pairs * height;
    const int64_t rows = std::min(height, layer.num_rows - first_row);
    if (rows > 0)
      amx_panel_task(layer, tiles, task % num_pairs, first_row, static_cast<int>(rows), thread_scratch<AmxPanelMemory>());
  });
}

}  // namespace hr
#endif
