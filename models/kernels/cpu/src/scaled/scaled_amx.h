// Many rows over scaled codes on AMX: weights are dequantized to bf16, 32 outputs x 512 columns at a time, and multiplied in
// tiles with the rows in bf16 (codes of W8A8 rows are exact in it).
#pragma once

#include "linear/amx.h"

#if HR_AMX

#include <algorithm>
#include <cstring>
#include <vector>

#include "linear/linear_kernels.h"
#include "linear/segments.h"
#include "runtime/parallel.h"
#include "scaled/scaled_codes.h"
#include "scaled/scaled_rows.h"

namespace hr {

constexpr int kAmxRows = 32;        // fewer do not pay for the dequantization
constexpr int kAmxPanelRows = 512;  // many, since a panel dequantizes all weights that it meets
constexpr int kTileSteps = 16;      // 512 columns

struct AmxRows {
  std::vector<Bf16> tiles;
  std::vector<float> factor;
};

struct AmxPanelMemory {
  alignas(64) uint8_t weights[2][kTileSteps][kAmxTileBytes];
  alignas(64) float sums[kAmxPanelRows][2 * kBlockRows];
};

inline void prepare_tiles(const ScaledLayer& layer, int64_t row, AmxRows& rows) {
  const int64_t padded = layer.padded();
  thread_local std::vector<float> buffer;
  buffer.resize(padded);
  rows.factor[row] = prepare(layer, row, buffer.data());
  for (int64_t k = 0; k < padded; k += 16)
    store_bf16(amx_activation(rows.tiles.data(), row, k / kAmxColumns * kAmxColumns, padded) + k % kAmxColumns,
               load<F32x16>(buffer.data() + k));
}

// Two columns of 16 rows, interleaved as a row of a tile.
HR_INLINE void store_pair(uint8_t* target, const F32x16& even, const F32x16& odd) {
  alignas(64) static constexpr uint16_t kInterleave[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                           8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512bh both = _mm512_cvtne2ps_pbh((__m512)odd.r[0], (__m512)even.r[0]);
  _mm512_store_si512(target, _mm512_permutexvar_epi16(_mm512_load_si512(kInterleave), (__m512i)both));
}

// scale, minimum [kScales]
template <class Code>
HR_INLINE void integer_tile(const uint8_t* p, const F32x16* scale, const F32x16* minimum, uint8_t* tile) {
  Bits codes[kVectors];
  Code::unpack(p, codes);
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    constexpr int kScales = Code::kScales;
    const int s = v * kScales / kVectors;
    F32x16 columns[4];
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const __m512i code = _mm512_and_si512(_mm512_srli_epi32((__m512i)codes[v].r[0], 8 * c), _mm512_set1_epi32(0xff));
      columns[c] = fma(F32x16{{(NativeF)_mm512_cvtepi32_ps(code)}}, scale[s], minimum[s]);
    }
    store_pair(tile + 128 * v, columns[0], columns[1]);
    store_pair(tile + 128 * v + 64, columns[2], columns[3]);
  }
}

template <class Code>
HR_INLINE void float_tile(const uint8_t* p, const F32x16& scale, uint8_t* tile) {
#pragma GCC unroll 4
  for (int pair = 0; pair < kGroup / 2; ++pair) {
    F32x16 w[2];
    Code::unpack(p, pair, w);
    store_pair(tile + 64 * pair, w[0] * scale, w[1] * scale);
  }
}

// Steps first .. first + count - 1 of a block, one tile each.
inline void dequantize(const ScaledMatrix& m, const uint8_t* block, int64_t first, int64_t count, uint8_t (*tiles)[kAmxTileBytes]) {
  const auto each = [&](const auto& make_tile) {
    for (int64_t i = 0; i < count; ++i)
      make_tile(block + m.codes_at(first + i), (first + i) / m.steps_a_group, tiles[i]);
  };
  if (!m.format.is_integer())
    return with_float_code(m.format.code, [&](auto code) {
      using Code = decltype(code);
      each([&](const uint8_t* p, int64_t g, uint8_t* tile) {
        F32x16 scale;
        m.scales<Code>(block, g, &scale);
        float_tile<Code>(p, scale, tile);
      });
    });
  with_integer_code(m.format, [&](auto code) {
    using Code = decltype(code);
    each([&](const uint8_t* p, int64_t g, uint8_t* tile) {
      F32x16 scale[Code::kScales], minimum[Code::kScales];
      m.scales<Code>(block, g, scale);
      F32x16 offset = broadcast(static_cast<float>(-Code::kOffset));
      if (m.format.has_zeros) offset = offset - m.zeros(block, g);
#pragma GCC unroll 2
      for (int s = 0; s < Code::kScales; ++s) minimum[s] = offset * scale[s];
      integer_tile<Code>(p, scale, minimum, tile);
    });
  });
}

inline void amx_task(const ScaledLayer& layer, const AmxRows& rows, const BlockPlace& place, int64_t first_row, int num_rows) {
  AmxPanelMemory& memory = thread_scratch<AmxPanelMemory>();
  const ScaledMatrix m = layer.matrix(*place.segment);
  const int num_blocks = (place.outputs + kBlockRows - 1) / kBlockRows;
  const uint8_t* block = place.segment->packed + place.block * m.block_bytes;
  std::memset(memory.sums, 0, sizeof(memory.sums));
  const AmxTiles registers;
  for (int64_t step = 0; step < m.num_steps(); step += kTileSteps) {
    const int64_t count = std::min<int64_t>(kTileSteps, m.num_steps() - step);
    for (int c = 0; c < num_blocks; ++c) dequantize(m, block + c * m.block_bytes, step, count, memory.weights[c]);
    amx_multiply(rows.tiles.data() + first_row * m.columns + step * kGroup * kAmxTileRows, m.columns, num_rows, memory.weights,
                 sizeof(memory.weights[0]), num_blocks, count, memory.sums[0], 2 * kBlockRows);
  }
  layer.put_panel(place, first_row, num_rows, memory.sums, rows.factor.data());
}

inline void amx_rows(const ScaledLayer& layer) {
  constexpr int kStep = 2 * kAmxTileRows;
  const int64_t num_pairs = num_places(layer.segments, layer.num_segments, 2);
  const int64_t num_panels = (layer.num_rows + kAmxPanelRows - 1) / kAmxPanelRows;
  const int64_t height = ((layer.num_rows + num_panels - 1) / num_panels + kStep - 1) / kStep * kStep;
  AmxRows& rows = thread_scratch<AmxRows>();
  const size_t size = (layer.num_rows + kStep) * layer.padded();
  if (rows.tiles.size() < size) rows.tiles.resize(size);
  if (rows.factor.size() < static_cast<size_t>(layer.num_rows)) rows.factor.resize(layer.num_rows);
  parallel_for(layer.num_rows, 4, [&](int64_t row) { prepare_tiles(layer, row, rows); });
  parallel_for(num_panels * num_pairs, 1, [&](int64_t task) {
    const int64_t first_row = task / num_pairs * height;
    const int64_t num_rows = std::min(height, layer.num_rows - first_row);
    if (num_rows > 0)
      amx_task(layer, rows, place_block(layer.segments, task % num_pairs, 2), first_row, static_cast<int>(num_rows));
  });
}

}  // namespace hr

#endif
