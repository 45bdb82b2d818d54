// Linear layers over scaled codes: out [M, N] = input(x) [M, K] * W^T (+ bias) (+ residual), weights as in scaled_codes.h.
//
// A row is prepared (norm, activation), its columns are permuted where the checkpoint sorted them (GPTQ's act-order), and it is
// rounded: to the weights' own 8-bit type with one scale a row where the checkpoint asks for that (W8A8), else to int8 with a
// scale for 32 columns where weights are integers, else not at all. Then, with a the rounded row,
//
//   integers  out[m, n] += scale_w[n, g] * scale_a[m, s] * (sum_k (code[n, k] - offset) a[m, k] - zero[n, g] * sum_k a[m, k])
//             over steps s of 32 columns, each an exact integer from byte dot products
//   floats    out[m, n] += scale_w[n, g] * sum_k value(code[n, k]) a[m, k]              over groups g, in fp32
//
// Few rows, and any number of rows that meet floats: a task is a panel of rows times a row block of 16 outputs, whose codes are
// unpacked once for as many rows as registers allow. With few rows it streams the block from memory; with many, a panel's later
// rows find it in the cache. Many rows that meet integers: integer_panel.h.
//
// Many rows on AMX: weights are dequantised to bf16, 32 outputs x 512 columns at a time, and multiplied in tiles with the rows in
// bf16 (codes of W8A8 rows are exact in it).

#include <algorithm>
#include <type_traits>
#include <vector>

#include "amx.h"
#include "integer_panel.h"
#include "linear_kernels.h"
#include "linear_output.h"
#include "parallel.h"
#include "replay.h"
#include "row_input.h"
#include "scaled_codes.h"
#include "segments.h"

using namespace hr;

namespace {

#if defined(__AVX512F__)
constexpr int kSharedRows[] = {1, 2, 3, 4, 6, 8};
#else
constexpr int kSharedRows[] = {1, 2};
#endif
constexpr int kMostShared = kSharedRows[sizeof(kSharedRows) / sizeof(int) - 1];
constexpr int kFewRows = 8 * kMostShared;  // of integers
constexpr int kVectorPanelRows = 64;
constexpr int kPrefetchBytes = 4096;
constexpr int64_t kPrepareAlone = 8192;  // elements; up to here one thread prepares the rows sooner than all of them would

// What a layer asks of its input rows; in the order of Rounding in scaled_weight.py.
enum class Rounding : int32_t { kAsKernel, kPerToken, kStatic, kPerGroup };

struct Layer {
  const void* x;
  int64_t x_stride;
  bool x_is_bf16;
  InputSpec input;
  int64_t num_rows, columns;
  const hr_segment* segments;
  int num_segments;
  Output out;
  const int32_t* permutation;
  Rounding rounding;
  float input_scale;

  ScaledMatrix matrix(const hr_segment& segment) const { return {segment.format, columns, segment.group_size}; }
  bool has_integers() const { return ScaledFormat(segments[0].format).is_integer(); }
  int64_t padded() const { return (columns + kGroup - 1) / kGroup * kGroup; }

  // Sums of a panel of rows and up to two row blocks; factor: of each of the layer's rows.
  void put_panel(const BlockPlace& place, int64_t first_row, int num_rows, const float (*sums)[2 * kBlockRows],
                 const float* factor) const {
    for (int r = 0; r < num_rows; ++r)
      for (int c = 0; c < place.outputs; c += kBlockRows)
        out.put(first_row + r, place.column + c, std::min(kBlockRows, place.outputs - c),
                load<F32x16>(sums[r] + c) * broadcast(factor[first_row + r]), place.bias ? place.bias + c : nullptr);
  }
};

// ---- rows

float largest_of(const float* x, int64_t columns) {
  F32x16 largest = broadcast(0.0f);
  for (int64_t k = 0; k < columns; k += 16) largest = max(largest, abs(load<F32x16>(x + k)));
  return max_lanes(largest);
}

// x [padded] rounded to E4M3 with a scale for each group of the weights' columns
void round_groups(const Layer& layer, float* x, int64_t padded) {
  const int64_t size = std::min(layer.segments[0].group_size, padded);
  for (int64_t first = 0; first < padded; first += size) {
    const int64_t count = std::min(size, padded - first);
    const float largest = largest_of(x + first, count);
    const F32x16 scale = broadcast(largest > 0 ? largest / 448.0f : 1.0f);
    for (int64_t k = first; k < first + count; k += 16) store(x + k, round_fp8(load<F32x16>(x + k) / scale) * scale);
  }
}

// x [padded] /= the row's scale, rounded to the weights' 8-bit type; returns the scale
float round_row(const Layer& layer, float* x, int64_t padded) {
  const bool integers = layer.has_integers();
  float scale = layer.input_scale;
  if (layer.rounding == Rounding::kPerToken) scale = largest_of(x, padded) / (integers ? 127.0f : 448.0f);
  const F32x16 divisor = broadcast(scale > 0 ? scale : 1.0f);
  for (int64_t k = 0; k < padded; k += 16) {
    const F32x16 v = load<F32x16>(x + k) / divisor;
    store(x + k, integers ? clamp(round_lanes(v), -128.0f, 127.0f) : round_fp8(v));
  }
  return scale;
}

// x [padded] = row `row`, prepared, permuted, rounded where the layer asks for it, zeros behind; returns what to multiply its
// results with
float prepare(const Layer& layer, int64_t row, float* x) {
  const int64_t padded = layer.padded();
  const void* source = static_cast<const char*>(layer.x) + row * layer.x_stride * (layer.x_is_bf16 ? 2 : 4);
  thread_local std::vector<float> unpermuted;
  float* prepared = x;
  if (layer.permutation) {
    unpermuted.resize(padded);
    prepared = unpermuted.data();
  }
  if (layer.x_is_bf16)
    prepare_row(layer.input, static_cast<const Bf16*>(source), layer.columns, prepared);
  else
    prepare_row(layer.input, static_cast<const float*>(source), layer.columns, prepared);
  if (layer.permutation)
    for (int64_t k = 0; k < layer.columns; ++k) x[k] = prepared[layer.permutation[k]];
  std::fill(x + layer.columns, x + padded, 0.0f);
  switch (layer.rounding) {
    case Rounding::kAsKernel: break;
    case Rounding::kPerGroup: round_groups(layer, x, padded); break;
    default: return round_row(layer, x, padded);
  }
  return 1.0f;
}

// Prepared rows, as int8 or in fp32.
struct Rows {
  int64_t columns;        // padded
  IntegerRows integers;
  float* values;          // [M, columns] fp32; null where there are integers
  float* factor;          // [M], of the results
};

struct RowMemory {
  std::vector<float> values, factor;
  IntegerRowMemory integers;

  Rows reserve(const Layer& layer) {
    const auto grow = [](auto& vector, int64_t size) {
      if (static_cast<int64_t>(vector.size()) < size) vector.resize(size);
    };
    const int64_t rows = layer.num_rows + kSpareRows;
    grow(factor, rows);
    Rows result{layer.padded(), {}, nullptr, factor.data()};
    if (layer.has_integers()) {
      result.integers = integers.reserve(layer.num_rows, layer.padded());
    } else {
      grow(values, rows * layer.padded());
      result.values = values.data();
    }
    return result;
  }
};

void prepare_into(const Layer& layer, int64_t row, const Rows& rows) {
  if (rows.values) {
    rows.factor[row] = prepare(layer, row, rows.values + row * rows.columns);
    return;
  }
  thread_local std::vector<float> buffer;
  buffer.resize(rows.columns);
  rows.factor[row] = prepare(layer, row, buffer.data());
  if (layer.rounding == Rounding::kAsKernel)
    rows.integers.put_scaled(row, buffer.data());
  else
    rows.integers.put_whole(row, buffer.data());
}

// ---- vectors

template <class Code, int R>
HR_INLINE void multiply_step(const uint8_t* p, const IntegerRows& rows, int64_t row, int64_t step, const F32x16& scale,
                             const F32x16* minimum, F32x16 (&out)[R]) {
  // with few rows one chain of dependent dot products would wait for its own results: two chains, of 16 columns each
  constexpr int kChains = R < 4 ? 2 : 1;
  Bits codes[kVectors];
  Code::unpack(p, codes);
  I32x16 sums[R][kChains];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const int32_t* minus = rows.minus_sum + ((row + r) * rows.groups + step) * 2;
    if constexpr (kChains == 1)
      sums[r][0] = broadcast(Code::kOffset * (minus[0] + minus[1]));
    else
      for (int c = 0; c < 2; ++c) sums[r][c] = broadcast(Code::kOffset * minus[c]);
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v)
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      I32x16& s = sums[r][v * kChains / kVectors];
      s = dot_bytes(s, codes[v], load_u32(rows.codes + (row + r) * rows.columns + step * kGroup + 4 * v));
    }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const int64_t at = (row + r) * rows.groups + step;
    const I32x16 sum = kChains == 2 ? sums[r][0] + sums[r][kChains - 1] : sums[r][0];
    out[r] = fma(to_float(sum), scale * broadcast(rows.scale[at]), out[r]);
    if (minimum) out[r] = fma(*minimum, broadcast(rows.sum[at]), out[r]);
  }
}

template <class Code, int R>
__attribute__((noinline)) void multiply_integers(const ScaledMatrix& m, const uint8_t* block, const Rows& rows, int64_t row,
                                                 F32x16* results) {
  F32x16 out[R] = {};
  const uint8_t* p = block;
  for (int64_t g = 0, step = 0; g < m.groups; ++g) {
    if (g % kChunkGroups == 0) p += m.header_bytes;
    const F32x16 scale = m.scales(block, g) * broadcast(Code::kFactor);
    F32x16 minimum;
    if (m.format.has_zeros) minimum = broadcast(-1.0f) * scale * m.zeros(block, g);
    for (const int64_t end = std::min(step + m.steps_a_group, m.num_steps()); step < end; ++step, p += Code::kBytes) {
#pragma GCC unroll 8
      for (int line = 0; line < Code::kBytes; line += 64) __builtin_prefetch(p + kPrefetchBytes + line);
      multiply_step<Code, R>(p, rows.integers, row, step, scale, m.format.has_zeros ? &minimum : nullptr, out);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) results[r] = out[r] * broadcast(rows.factor[row + r]);
}

template <class Code, int R>
__attribute__((noinline)) void multiply_floats(const ScaledMatrix& m, const uint8_t* block, const Rows& rows, int64_t row,
                                               F32x16* results) {
  constexpr int kChains = R == 1 ? 4 : R == 2 ? 2 : 1, kPairs = kChains == 4 ? 2 : 1;
  F32x16 out[R] = {};
  const uint8_t* p = block;
  for (int64_t g = 0, step = 0; g < m.groups; ++g) {
    if (g % kChunkGroups == 0) p += m.header_bytes;
    F32x16 sums[R][kChains] = {};
    for (const int64_t end = std::min(step + m.steps_a_group, m.num_steps()); step < end; ++step, p += Code::kBytes) {
#pragma GCC unroll 8
      for (int line = 0; line < Code::kBytes; line += 64) __builtin_prefetch(p + kPrefetchBytes + line);
      const float* x = rows.values + row * rows.columns + step * kGroup;
      for (int first = 0; first < kGroup / 2; first += kPairs)
#pragma GCC unroll 2
        for (int pair = 0; pair < kPairs; ++pair) {
          F32x16 w[2];
          Code::unpack(p, first + pair, w);
#pragma GCC unroll 2
          for (int c = 0; c < 2; ++c)
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
              F32x16& sum = sums[r][(2 * pair + c) % kChains];
              sum = fma(w[c], broadcast(x[r * rows.columns + 2 * (first + pair) + c]), sum);
            }
        }
    }
    const F32x16 scale = m.scales(block, g) * broadcast(Code::kFactor);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      for (int c = 1; c < kChains; ++c) sums[r][0] = sums[r][0] + sums[r][c];
      out[r] = fma(sums[r][0], scale, out[r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) results[r] = out[r] * broadcast(rows.factor[row + r]);
}

// f(R) with the smallest number of shared rows that is at least `count`, as an integral constant
template <int kChoice = 0, class Function>
HR_INLINE void with_shared_rows(int count, const Function& f) {
  constexpr int R = kSharedRows[kChoice];
  if constexpr (R < kMostShared) {
    if (count > R) return with_shared_rows<kChoice + 1>(count, f);
  }
  f(std::integral_constant<int, R>{});
}

void vector_task(const Layer& layer, const Rows& rows, const BlockPlace& place, int64_t first_row, int64_t end_row) {
  const ScaledMatrix m = layer.matrix(*place.segment);
  const uint8_t* block = place.segment->packed + place.block * m.block_bytes;
  for (int64_t row = first_row; row < end_row; row += kMostShared) {
    F32x16 results[kMostShared];
    const int count = static_cast<int>(std::min<int64_t>(kMostShared, end_row - row));
    with_shared_rows(count, [&](auto shared) {
      constexpr int R = decltype(shared)::value;
      if (m.format.is_integer())
        with_integer_code(m.format.code, [&](auto code) { multiply_integers<decltype(code), R>(m, block, rows, row, results); });
      else
        with_float_code(m.format.code, [&](auto code) { multiply_floats<decltype(code), R>(m, block, rows, row, results); });
    });
    for (int r = 0; r < count; ++r) layer.out.put(row + r, place.column, place.outputs, results[r], place.bias);
  }
}

void vector_rows(const Layer& layer) {
  const int64_t num_blocks = num_places(layer.segments, layer.num_segments, 1);
  const int64_t num_panels = (layer.num_rows + kVectorPanelRows - 1) / kVectorPanelRows;
  // some 64 KiB of weights at a time: long enough to stream, short enough that a delayed thread does not hold up the rest
  const int64_t bytes = layer.matrix(layer.segments[0]).block_bytes;
  const int64_t grain = std::max<int64_t>(1, std::min<int64_t>(65536 / bytes, num_blocks / (4 * num_threads())));
  const Rows rows = thread_scratch<RowMemory>().reserve(layer);
  const bool alone = layer.num_rows * layer.columns <= kPrepareAlone;
  parallel_for(layer.num_rows, alone ? layer.num_rows : 1, [&](int64_t row) { prepare_into(layer, row, rows); });
  parallel_for(num_panels * num_blocks, num_panels == 1 ? grain : 1, [&](int64_t task) {
    const int64_t first_row = task % num_panels * kVectorPanelRows;
    vector_task(layer, rows, place_block(layer.segments, task / num_panels), first_row,
                std::min(layer.num_rows, first_row + kVectorPanelRows));
  });
}

// ---- many rows of integers

template <class Code>
struct PanelWeights {
  const ScaledMatrix& m;
  const uint8_t* first;  // row block

  HR_INLINE void expand(int c, int64_t step, int i, Expanded& out) const {
    const uint8_t* block = first + c * m.block_bytes;
    const int64_t group = step / m.steps_a_group;
    Bits codes[kVectors];
    Code::unpack(block + m.codes_at(step), codes);
    for (int v = 0; v < kVectors; ++v) store(out.codes[i][v], codes[v]);
    const F32x16 scale = m.scales(block, group) * broadcast(Code::kFactor);
    store(out.scale[i][0], scale);
    if (m.format.has_zeros) store(out.minimum[i][0], broadcast(-1.0f) * scale * m.zeros(block, group));
  }
  HR_INLINE void prefetch(int c, int64_t step) const {
    prefetch_lines(first + c * m.block_bytes + m.codes_at(step), Code::kBytes);
  }
};

void integer_rows(const Layer& layer) {
  const Rows rows = thread_scratch<RowMemory>().reserve(layer);
  parallel_for(layer.num_rows, 4, [&](int64_t row) { prepare_into(layer, row, rows); });
  for_each_panel(layer.segments, layer.num_segments, layer.num_rows,
                 [&](const BlockPlace& place, int64_t first_row, int num_rows, PanelMemory& memory) {
                   const ScaledMatrix m = layer.matrix(*place.segment);
                   const uint8_t* first = place.segment->packed + place.block * m.block_bytes;
                   const int num_blocks = (place.outputs + kBlockRows - 1) / kBlockRows;
                   with_integer_code(m.format.code, [&](auto code) {
                     using Weights = PanelWeights<decltype(code)>;
                     const auto multiply = m.format.has_zeros ? multiply_panel<1, true, Weights> : multiply_panel<1, false, Weights>;
                     multiply({m, first}, num_blocks, decltype(code)::kOffset, rows.integers, first_row, num_rows, memory);
                   });
                   layer.put_panel(place, first_row, num_rows, memory.sums, rows.factor);
                 });
}

// ---- many rows on AMX

#if HR_AMX
constexpr int kAmxRows = 32;        // fewer do not pay for the dequantisation
constexpr int kAmxPanelRows = 512;  // many, since a panel dequantises all weights that it meets
constexpr int kTileSteps = 16;      // 512 columns

struct AmxRows {
  std::vector<Bf16> tiles;
  std::vector<float> factor;
};

struct AmxPanelMemory {
  alignas(64) uint8_t weights[2][kTileSteps][kAmxTileBytes];
  alignas(64) float sums[kAmxPanelRows][2 * kBlockRows];
};

void prepare_tiles(const Layer& layer, int64_t row, AmxRows& rows) {
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

template <class Code>
HR_INLINE void integer_tile(const uint8_t* p, const F32x16& scale, const F32x16& minimum, uint8_t* tile) {
  Bits codes[kVectors];
  Code::unpack(p, codes);
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    F32x16 columns[4];
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const __m512i code = _mm512_and_si512(_mm512_srli_epi32((__m512i)codes[v].r[0], 8 * c), _mm512_set1_epi32(0xff));
      columns[c] = fma(F32x16{{(NativeF)_mm512_cvtepi32_ps(code)}}, scale, minimum);
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
void dequantise(const ScaledMatrix& m, const uint8_t* block, int64_t first, int64_t count, uint8_t (*tiles)[kAmxTileBytes]) {
  const auto each = [&](const auto& make_tile) {
    for (int64_t i = 0; i < count; ++i)
      make_tile(block + m.codes_at(first + i), (first + i) / m.steps_a_group, tiles[i]);
  };
  if (!m.format.is_integer())
    return with_float_code(m.format.code, [&](auto code) {
      using Code = decltype(code);
      each([&](const uint8_t* p, int64_t g, uint8_t* tile) {
        float_tile<Code>(p, m.scales(block, g) * broadcast(Code::kFactor), tile);
      });
    });
  with_integer_code(m.format.code, [&](auto code) {
    using Code = decltype(code);
    each([&](const uint8_t* p, int64_t g, uint8_t* tile) {
      const F32x16 scale = m.scales(block, g) * broadcast(Code::kFactor);
      F32x16 offset = broadcast(static_cast<float>(-Code::kOffset));
      if (m.format.has_zeros) offset = offset - m.zeros(block, g);
      integer_tile<Code>(p, scale, offset * scale, tile);
    });
  });
}

void amx_task(const Layer& layer, const AmxRows& rows, const BlockPlace& place, int64_t first_row, int num_rows) {
  AmxPanelMemory& memory = thread_scratch<AmxPanelMemory>();
  const ScaledMatrix m = layer.matrix(*place.segment);
  const int num_blocks = (place.outputs + kBlockRows - 1) / kBlockRows;
  const uint8_t* block = place.segment->packed + place.block * m.block_bytes;
  std::memset(memory.sums, 0, sizeof(memory.sums));
  const AmxTiles registers;
  for (int64_t step = 0; step < m.num_steps(); step += kTileSteps) {
    const int64_t count = std::min<int64_t>(kTileSteps, m.num_steps() - step);
    for (int c = 0; c < num_blocks; ++c) dequantise(m, block + c * m.block_bytes, step, count, memory.weights[c]);
    amx_multiply(rows.tiles.data() + first_row * m.columns + step * kGroup * kAmxTileRows, m.columns, num_rows, memory.weights,
                 sizeof(memory.weights[0]), num_blocks, count, memory.sums[0], 2 * kBlockRows);
  }
  layer.put_panel(place, first_row, num_rows, memory.sums, rows.factor.data());
}

void amx_rows(const Layer& layer) {
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
#endif

}  // namespace

// As hr_quantized_linear, over matrices that are all of integers or all of floats. K is a multiple of 16. permutation: null,
// or [K] columns of the input in the order of the codes' columns. rounding: Rounding, with the scale of kStatic; only integers
// and FP8, and by groups only FP8, can be rounded to.
HR_API void hr_scaled_linear(const void* x, int x_is_bf16, int64_t x_stride, int64_t num_rows, int64_t columns, int input_kind,
                             const float* input_weight, const float* input_bias, float eps, const hr_segment* segments,
                             int num_segments, void* out, int out_is_bf16, int64_t out_stride, const void* residual,
                             int64_t residual_stride, const int32_t* permutation, int rounding, float input_scale) {
  const Layer layer{x,
                    x_stride,
                    x_is_bf16 != 0,
                    {static_cast<InputKind>(input_kind), input_weight, input_bias, eps},
                    num_rows,
                    columns,
                    segments,
                    num_segments,
                    {out, out_stride, residual, residual_stride, out_is_bf16 != 0},
                    permutation,
                    static_cast<Rounding>(rounding),
                    input_scale};
  if (num_rows == 0) return;
#if HR_AMX
  if (num_rows >= kAmxRows) return amx_rows(layer);
#endif
  if (num_rows > kFewRows && layer.has_integers())
    integer_rows(layer);
  else
    vector_rows(layer);
}

HR_REPLAYABLE(hr_scaled_linear)
