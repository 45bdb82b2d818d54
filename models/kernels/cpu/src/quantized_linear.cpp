// Linear layers over packed integer weights: out [M, N] = input(x) [M, K] * W^T (+ bias) (+ residual).
//
// Activations are quantized to int8 with one scale per row and group of 32 columns, so that a group's product is an exact
// integer, and per group g of 32 columns (weights as in codecs.h, a = activation codes):
//
//   out[m, n] += scale_a[m, g] * scale_w[n, g] * sum_k (code[n, k] - offset) a[m, k]  +  minimum[n, g] * sum_a[m, g]
//
// A layer may be several matrices side by side (q, k and v; gate and up), each in a format of its own: `segments`.
//
// Few rows (M <= kFewRows): bound by memory. A thread takes row blocks of 16 outputs, streams each once, and multiplies
// kMostShared rows at a time with the unpacked registers. Activations are quantized by the caller alone while that is cheaper
// than a loop of its own.
//
// Many rows: bound by arithmetic. A panel of rows meets two row blocks, as integer_panel.h says.
//
// Many rows on AMX (M >= kAmxRows): the same tasks, but weights are dequantized to bf16 once a step, and multiplied in tiles
// with activations rounded to bf16 (amx.h). That is faster than scaling the integer sums of every group, and more exact.
#include <algorithm>
#include <memory>
#include <vector>

#include "amx.h"
#include "codecs.h"
#include "integer_panel.h"
#include "linear_kernels.h"
#include "linear_layer.h"
#include "parallel.h"
#include "replay.h"
#include "shared_rows.h"

using namespace hr;

namespace {

constexpr int kFewRows = 8 * kMostShared;  // up to here unpacking again for each kMostShared rows is cheaper than a panel
constexpr int64_t kQuantizeAlone = 2048;  // elements; up to here the caller is done before the others would have begun

int64_t padded_groups(int64_t columns) { return num_units(columns) * (kUnit / kGroup); }

void quantize_row(const LinearLayer& layer, int64_t row, const IntegerRows& a) {
  thread_local std::vector<float> prepared;
  const int64_t columns = a.groups * kGroup;
  if (static_cast<int64_t>(prepared.size()) < columns) prepared.resize(columns);
  float* x = prepared.data();
  layer.prepare(row, x);
  std::fill(x + layer.columns, x + columns, 0.0f);
  a.put_scaled(row, x);
}

// ---- few rows

// rows [R]: that group of the rows.
template <class Codec, int R>
HR_INLINE void multiply_group(const Group& g, const IntegerGroup* rows, F32x16 (&out)[R]) {
  // with few rows one chain of dependent dot products would wait for its own results: two chains, of 16 columns each
  constexpr int kChains = Codec::kScales == 2 || R < 4 ? 2 : 1;
  I32x16 sums[R][kChains];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < kChains; ++c)
      sums[r][c] = broadcast(rows[r].template minus_sum_of<kChains>(c)) * Codec::kOffset;
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v)
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      I32x16& s = sums[r][v * kChains / kVectors];
      s = dot_bytes(s, g.codes[v], load_u32(rows[r].codes + 4 * v));
    }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const F32x16 scale = broadcast(rows[r].scale);
    if constexpr (Codec::kScales == 2) {
      out[r] = fma(to_float(sums[r][0]) * scale, g.scale[0], out[r]);
      out[r] = fma(to_float(sums[r][1]) * scale, g.scale[1], out[r]);
    } else {
      const I32x16 sum = kChains == 2 ? sums[r][0] + sums[r][kChains - 1] : sums[r][0];
      out[r] = fma(to_float(sum) * scale, g.scale[0], out[r]);
    }
    if constexpr (Codec::kHasMinimum)
#pragma GCC unroll 2
      for (int s = 0; s < Codec::kScales; ++s)
        out[r] = fma(g.minimum[s], broadcast(rows[r].template sum_of<Codec::kScales>(s)), out[r]);
  }
}

// rows: a tile of R.
template <class Codec, int R>
__attribute__((noinline)) void multiply_block(const uint8_t* block, const IntegerGroup* rows, int64_t groups, F32x16* results) {
  F32x16 out[R] = {};
  for (int64_t u = 0; u < groups / 2; ++u) {
    const uint8_t* header = header_address<Codec>(block, u);
    const uint8_t* unit = unit_address<Codec>(block, u);
    if (Codec::kHeaderBytes > 0 && u % kUnitsPerHeader == 0) prefetch_lines(header + kPrefetchBytes, Codec::kHeaderBytes);
    prefetch_lines(unit + kPrefetchBytes, Codec::kUnitBytes);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half, rows += R) multiply_group<Codec, R>(Codec::unpack(header, unit, half), rows, out);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) results[r] = out[r];
}

void few_rows_block(const LinearLayer& layer, const IntegerRows& a, int64_t index) {
  const BlockPlace place = place_block(layer.segments, index);
  with_codec(static_cast<Format>(place.segment->format), [&](auto codec) {
    using Codec = decltype(codec);
    const uint8_t* block = place.segment->packed + place.block * block_bytes<Codec>(layer.columns);
    F32x16 results[kMostShared];
    for (int64_t row = 0; row < layer.num_rows; row += kMostShared) {  // from the second time on, the block is in the cache
      const int64_t rows = std::min<int64_t>(kMostShared, layer.num_rows - row);
      with_shared_rows(rows, [&](auto shared) { multiply_block<Codec, shared>(block, a.tile(row), a.groups, results); });
      for (int r = 0; r < rows; ++r) layer.out.put(row + r, place.column, place.outputs, results[r], place.bias);
    }
  });
}

// ---- many rows

void put_panel(const LinearLayer& layer, const BlockPlace& place, int64_t first_row, int num_rows,
               const float (*sums)[2 * kBlockRows]) {
  for (int r = 0; r < num_rows; ++r)
    for (int c = 0; c < place.outputs; c += kBlockRows)
      layer.out.put(first_row + r, place.column + c, std::min(kBlockRows, place.outputs - c), load<F32x16>(sums[r] + c),
                    place.bias ? place.bias + c : nullptr);
}

// Row blocks of one matrix, as multiply_panel() wants them.
template <class Codec>
struct PanelWeights {
  const uint8_t* first;
  int64_t stride, groups;

  HR_INLINE void expand(int c, int64_t group, int i, Expanded& out) const {
    const uint8_t* block = first + c * stride;
    const Group g = Codec::unpack(header_address<Codec>(block, group / 2), unit_address<Codec>(block, group / 2), group % 2);
    for (int v = 0; v < kVectors; ++v) store(out.codes[i][v], g.codes[v]);
    for (int s = 0; s < Codec::kScales; ++s) {
      store(out.scale[i][s], g.scale[s]);
      if constexpr (Codec::kHasMinimum) store(out.minimum[i][s], g.minimum[s]);
    }
  }
  HR_INLINE void prefetch(int c, int64_t group) const {
    const int64_t bytes = Codec::kUnitBytes / 2;
    prefetch_lines(unit_address<Codec>(first + c * stride, 0) + group * bytes, bytes);
  }
};

void panel_task(const LinearLayer& layer, const IntegerRows& a, const BlockPlace& place, int64_t first_row, int num_rows,
                PanelMemory& memory) {
  with_codec(static_cast<Format>(place.segment->format), [&](auto codec) {
    using Codec = decltype(codec);
    const int64_t stride = block_bytes<Codec>(layer.columns);
    const PanelWeights<Codec> weights{place.segment->packed + place.block * stride, stride, a.groups};
    multiply_panel<Codec::kScales, Codec::kHasMinimum, Codec::kOffset>(weights, (place.outputs + kBlockRows - 1) / kBlockRows, a,
                                                                       first_row, num_rows, 1, memory);
  });
  put_panel(layer, place, first_row, num_rows, memory.sums);
}

// ---- many rows on AMX

#if HR_AMX
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

void amx_panel_task(const LinearLayer& layer, const Bf16* tiles, int64_t index, int64_t first_row, int num_rows, AmxPanelMemory& memory) {
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

void many_rows_amx(const LinearLayer& layer) {
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
#endif

void few_rows(const LinearLayer& layer) {
  const int64_t num_blocks = num_places(layer.segments, layer.num_segments, 1);
  int64_t bytes = 0;
  for (int s = 0; s < layer.num_segments; ++s)
    with_codec(static_cast<Format>(layer.segments[s].format), [&](auto codec) {
      bytes += num_row_blocks(layer.segments[s]) * block_bytes<decltype(codec)>(layer.columns);
    });
  const int64_t chunk = streamed_blocks(bytes / num_blocks, num_blocks, num_threads());
  thread_local IntegerRowMemory memory;
  const IntegerRows a =
      memory.reserve(layer.num_rows, padded_groups(layer.columns), kMostShared, last_shared_rows(layer.num_rows));
  parallel_for(layer.num_rows, std::max<int64_t>(1, kQuantizeAlone / layer.columns), [&](int64_t r) { quantize_row(layer, r, a); });
  parallel_for(num_blocks, chunk, [&](int64_t i) { few_rows_block(layer, a, i); });
}

void many_rows(const LinearLayer& layer) {
  thread_local IntegerRowMemory memory;
  const IntegerRows a = memory.reserve(layer.num_rows, padded_groups(layer.columns), kTileRows, kTileRows);
  parallel_for(layer.num_rows, 4, [&](int64_t r) { quantize_row(layer, r, a); });
  for_each_panel(layer.segments, layer.num_segments, layer.num_rows,
                 [&](const BlockPlace& place, int64_t first_row, int num_rows, PanelMemory& panel) {
                   panel_task(layer, a, place, first_row, num_rows, panel);
                 });
}

}  // namespace

// x [M, K] (2K for gated inputs) and out [M, sum of the segments' rows]: bf16 or fp32, row strides in elements. K is a
// multiple of 32. input_kind: InputKind, with its weight and bias. residual: null, or [M, N] of out's type, added.
HR_API void hr_quantized_linear(const void* x, int x_is_bf16, int64_t x_stride, int64_t num_rows, int64_t columns,
                                int input_kind, const float* input_weight, const float* input_bias, float eps,
                                const hr_segment* segments, int num_segments, void* out, int out_is_bf16, int64_t out_stride,
                                const void* residual, int64_t residual_stride) {
  const LinearLayer layer{x,
                          x_stride,
                          x_is_bf16 != 0,
                          {static_cast<InputKind>(input_kind), input_weight, input_bias, eps},
                          num_rows,
                          columns,
                          segments,
                          num_segments,
                          {out, out_stride, residual, residual_stride, out_is_bf16 != 0}};
  if (num_rows == 0) return;
#if HR_AMX
  if (num_rows >= kAmxRows) return many_rows_amx(layer);
#endif
  if (num_rows <= kFewRows)
    few_rows(layer);
  else
    many_rows(layer);
}

HR_REPLAYABLE(hr_quantized_linear)
