// Input rows of a layer over scaled codes: prepared (norm, activation), permuted where the checkpoint sorted the columns, and
// rounded: to the weights' own 8-bit type (int8 for ternary weights) with one scale a row where the checkpoint asks for that, else
// to int8 with a scale for 32 columns where weights are integers, else not at all.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "linear/linear_layer.h"
#include "quantized/integer_rows.h"
#include "scaled/scaled_codes.h"

namespace hr {

// What a layer asks of its input rows; in the order of Rounding in scaled_weight.py.
enum class Rounding : int32_t { kAsKernel, kPerToken, kStatic, kPerGroup };

struct ScaledLayer : LinearLayer {
  const int32_t* permutation;
  Rounding rounding;
  float input_scale;

  ScaledMatrix matrix(const hr_segment& segment) const { return {segment.format, columns, segment.group_size}; }
  bool has_integers() const { return ScaledFormat(segments[0].format).is_integer(); }
  bool has_ternary() const { return ScaledFormat(segments[0].format).code == Code::kTernary; }
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

inline float largest_of(const float* x, int64_t columns) {
  F32x16 largest = broadcast(0.0f);
  for (int64_t k = 0; k < columns; k += 16) largest = max(largest, abs(load<F32x16>(x + k)));
  return max_lanes(largest);
}

// x [padded] rounded to E4M3 with a scale for each group of the weights' columns
inline void round_groups(const ScaledLayer& layer, float* x, int64_t padded) {
  const int64_t size = std::min(layer.segments[0].group_size, padded);
  for (int64_t first = 0; first < padded; first += size) {
    const int64_t count = std::min(size, padded - first);
    const float largest = largest_of(x + first, count);
    const F32x16 scale = broadcast(largest > 0 ? largest / 448.0f : 1.0f);
    for (int64_t k = first; k < first + count; k += 16) store(x + k, round_fp8(load<F32x16>(x + k) / scale) * scale);
  }
}

// x [padded] rounded to int8 for ternary weights, as BitNet does it; returns the scale
inline float round_ternary(float* x, int64_t padded) {
  const float factor = 127.0f / std::max(largest_of(x, padded), 1e-5f);
  for (int64_t k = 0; k < padded; k += 16)
    store(x + k, clamp(round_lanes(load<F32x16>(x + k) * broadcast(factor)), -128.0f, 127.0f));
  return 1.0f / factor;
}

// x [padded] /= the row's scale, rounded to the weights' 8-bit type; returns the scale
inline float round_row(const ScaledLayer& layer, float* x, int64_t padded) {
  const bool integers = layer.has_integers();
  if (layer.rounding == Rounding::kPerToken && layer.has_ternary()) return round_ternary(x, padded);
  float scale = layer.input_scale;
  if (layer.rounding == Rounding::kPerToken) scale = largest_of(x, padded) / (integers ? 127.0f : 448.0f);
  const F32x16 divisor = broadcast(scale > 0 ? scale : 1.0f);
  for (int64_t k = 0; k < padded; k += 16) {
    const F32x16 v = load<F32x16>(x + k) / divisor;
    store(x + k, integers ? clamp(round_lanes(v), -128.0f, 127.0f) : round_fp8(v));
  }
  return scale;
}

// x [padded] = row `row`, prepared, permuted, rounded where the layer asks for it, padded with zeros; returns the factor of its
// results
inline float prepare(const ScaledLayer& layer, int64_t row, float* x) {
  const int64_t padded = layer.padded();
  thread_local std::vector<float> unpermuted;
  float* prepared = x;
  if (layer.permutation) {
    unpermuted.resize(padded);
    prepared = unpermuted.data();
  }
  layer.prepare(row, prepared);
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
struct PreparedRows {
  int64_t columns;        // padded
  IntegerRows integers;
  float* values;          // [M, columns] fp32; null where there are integers
  float* factor;          // [M], of the results
};

struct PreparedRowMemory {
  std::vector<float> values, factor;
  IntegerRowMemory integers;

  // tile_rows, last_rows: as integer rows are laid out
  PreparedRows reserve(const ScaledLayer& layer, int tile_rows, int last_rows) {
    const auto grow = [](auto& vector, int64_t size) {
      if (static_cast<int64_t>(vector.size()) < size) vector.resize(size);
    };
    const int64_t rows = (layer.num_rows + tile_rows - 1) / tile_rows * tile_rows;
    grow(factor, rows);
    PreparedRows result{layer.padded(), {}, nullptr, factor.data()};
    if (layer.has_integers()) {
      result.integers = integers.reserve(layer.num_rows, layer.padded() / kGroup, tile_rows, last_rows);
    } else {
      grow(values, rows * layer.padded());
      result.values = values.data();
    }
    return result;
  }
};

inline void prepare_into(const ScaledLayer& layer, int64_t row, const PreparedRows& rows) {
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

}  // namespace hr
