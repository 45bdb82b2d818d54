// Linear layers over packed bf16 or fp32 weights: out [M, N] = input(x) [M, K] * W^T (+ bias) (+ residual), sums in fp32.
//
// Weights lie as dense_weights.cpp packs them; K is a multiple of 16. Rows of x are multiplied in the weights' type.
//
// Few rows (M <= kFewRows): bound by memory. A thread streams a row block once and multiplies every row with it.
// Many rows: bound by arithmetic. A task is a panel of rows times up to kSpan row blocks, in steps of kStepUnits units
// of columns, so that the weights of a step stay in the first-level cache while register tiles of
// kDenseTileRows rows pass over them; sums over steps stay in an fp32 buffer.
#include <algorithm>
#include <memory>
#include <vector>

#include "dense/dense_products.h"
#include "linear/amx.h"
#include "linear/linear_kernels.h"
#include "linear/linear_layer.h"
#include "runtime/parallel.h"
#include "runtime/replay.h"
#include "simd/streaming.h"

namespace {

using namespace hr;

constexpr int kFewRows = 8;
constexpr int kSpan = HR_AMX ? 8 : 4;  // most row blocks of a panel task
constexpr int kStepUnits = 64;   // 4 * 64 * 64 bytes = 16 KiB of weights
constexpr int kPanelRows = HR_AMX ? 256 : 120;  // whole register tiles of amx_panel() or vector_panel()
// A level with AMX has vector_panel(), too, for fp32 and odd numbers of columns: its last tile may reach beyond a full panel.
constexpr int kSumRows = (kPanelRows + kDenseTileRows - 1) / kDenseTileRows * kDenseTileRows;
constexpr int kSpareRows = 32;                  // a register tile may reach this far beyond the last row
constexpr int64_t kPrepareAlone = 8192;  // elements; up to here the caller is done before the others would have begun
#if HR_AMX
constexpr int kPanelStep = 32, kAmxStepColumns = 512;  // 32 outputs * 512 columns * 2 bytes = 32 KiB of weights
#else
constexpr int kPanelStep = kDenseTileRows;
#endif
static_assert(kPanelRows % kPanelStep == 0 && kSpareRows >= kDenseTileRows);

// Prepared rows: [M, K], with room for the rows that a register tile computes beyond M.
template <class Element>
Element* reserve(std::vector<Element>& memory, int64_t rows, int64_t columns) {
  const size_t size = (rows + kSpareRows) * columns;
  if (memory.size() < size) memory.resize(size);
  return memory.data();
}

void prepare(const LinearLayer& layer, int64_t row, float* rows) { layer.prepare(row, rows + row * layer.columns); }

void prepare(const LinearLayer& layer, int64_t row, Bf16* rows) {
  thread_local std::vector<float> buffer;
  if (static_cast<int64_t>(buffer.size()) < layer.columns) buffer.resize(layer.columns);
  prepare_row_bf16(layer.input, layer.input_row(row), layer.x_is_bf16, layer.columns, buffer.data(), rows + row * layer.columns);
}

#if HR_AMX
template <class Element>
bool use_amx(int64_t columns) { return kPack<Element> == 2 && columns % kAmxColumns == 0 && allows_amx; }
#endif

// Each sum is one chain, as in multiply_tile(), so that a row's results do not depend on how many rows there are. With a single
// row its products wait for each other, but less long than for the weights.
template <int R, class Element>
__attribute__((noinline)) void multiply_block(const uint8_t* block, const Element* rows, int64_t columns, F32x16* results) {
  F32x16 sums[R] = {};
#pragma GCC unroll 4
  for (int64_t k = 0; k < columns / kPack<Element>; ++k) {
    prefetch_lines(block + 64 * k + kPrefetchBytes, 64);
    const Bits w = load<Bits>(block + 64 * k);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sums[r] = add_product<Element>(sums[r], load_u32(rows + r * columns + kPack<Element> * k), w);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) results[r] = sums[r];
}

// `rows` rows, in one pass where a kernel for at least that many exists; results has room for kFewRows.
template <int kChoice = 0, class Element>
void multiply_rows(const uint8_t* block, const Element* x, int64_t columns, int rows, F32x16* results) {
  constexpr int kLast = sizeof(kDenseSharedRows) / sizeof(int) - 1, R = kDenseSharedRows[kChoice];
  if constexpr (kChoice < kLast) {
    if (rows > R) return multiply_rows<kChoice + 1>(block, x, columns, rows, results);
  }
  for (int r = 0; r < rows; r += R) multiply_block<R>(block, x + r * columns, columns, results + r);
}

template <class Element>
void few_rows_block(const LinearLayer& layer, const Element* rows, int64_t index) {
  const BlockPlace place = place_block(layer.segments, index);
  F32x16 results[kFewRows];
  multiply_rows(place.segment->packed + place.block * dense_block_bytes<Element>(layer.columns), rows, layer.columns,
                static_cast<int>(layer.num_rows), results);
  for (int64_t r = 0; r < layer.num_rows; ++r) layer.out.put(r, place.column, place.outputs, results[r], place.bias);
}

template <class Element>
void few_rows(const LinearLayer& layer) {
  const int64_t num_blocks = num_places(layer.segments, layer.num_segments, 1);
  const int64_t chunk = streamed_blocks(dense_block_bytes<Element>(layer.columns), num_blocks, num_threads());
  thread_local std::vector<Element> memory;
  Element* rows = reserve(memory, layer.num_rows, layer.columns);
  parallel_for(layer.num_rows, std::max<int64_t>(1, kPrepareAlone / layer.columns), [&](int64_t r) { prepare(layer, r, rows); });
  parallel_for(num_blocks, chunk, [&](int64_t i) { few_rows_block(layer, rows, i); });
}

struct PanelMemory {
  alignas(64) float sums[kSumRows][kSpan * kBlockRows];
};

template <int R, int C, class Element>
__attribute__((noinline)) void multiply_tile(const uint8_t* block, int64_t block_stride, const Element* rows, int64_t row_stride,
                                             int64_t num_units, float* sums) {
  F32x16 tile[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) tile[r][c] = load<F32x16>(sums + (r * kSpan + c) * kBlockRows);
  multiply_add<R, C>(block, block_stride, rows, row_stride, num_units, tile);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) store(sums + (r * kSpan + c) * kBlockRows, tile[r][c]);
}

template <int C, class Element>
void panel_sums(const uint8_t* block, const Element* rows, int64_t columns, int num_rows, float* sums) {
  const int64_t num_units = columns / kPack<Element>;
  for (int64_t k = 0; k < num_units; k += kStepUnits) {
    const int64_t step = std::min<int64_t>(kStepUnits, num_units - k);
    for (int r = 0; r < num_rows; r += kDenseTileRows) {
      const auto multiply = num_rows - r > kDenseHalfTileRows ? multiply_tile<kDenseTileRows, C, Element>
                                                              : multiply_tile<kDenseHalfTileRows, C, Element>;
      multiply(block + 64 * k, dense_block_bytes<Element>(columns), rows + r * columns + kPack<Element> * k, columns, step,
               sums + r * kSpan * kBlockRows);
    }
  }
}

template <class Element>
void vector_panel(const uint8_t* block, int num_blocks, const Element* rows, int64_t columns, int num_rows, PanelMemory& memory) {
  constexpr int kMost = kDenseTileBlocks;
  for (int c = 0; c < num_blocks; c += kMost, block += kMost * dense_block_bytes<Element>(columns)) {
    float* sums = memory.sums[0] + c * kBlockRows;
    switch (std::min(kMost, num_blocks - c)) {
      case 1: panel_sums<1>(block, rows, columns, num_rows, sums); break;
      case 2: panel_sums<2>(block, rows, columns, num_rows, sums); break;
      case 3: panel_sums<3>(block, rows, columns, num_rows, sums); break;
      default: panel_sums<4>(block, rows, columns, num_rows, sums);
    }
  }
}

#if HR_AMX
void amx_panel(const uint8_t* block, int num_blocks, const Bf16* tiles, int64_t columns, int num_rows, PanelMemory& memory) {
  const AmxTiles registers;
  for (int c = 0; c < num_blocks; c += 2)
    for (int64_t k = 0; k < columns; k += kAmxStepColumns)
      amx_multiply(tiles + k * kAmxTileRows, columns, num_rows, block + c * dense_block_bytes<Bf16>(columns) + k * kBlockRows * 2,
                   dense_block_bytes<Bf16>(columns), std::min(2, num_blocks - c),
                   std::min<int64_t>(kAmxStepColumns, columns - k) / kAmxColumns,
                   memory.sums[0] + c * kBlockRows, kSpan * kBlockRows);
}
#endif

// rows: all prepared rows, in AMX tiles where use_amx() says so
template <class Element>
void panel_task(const LinearLayer& layer, const Element* rows, const BlockPlace& place, int64_t first_row, int num_rows,
                PanelMemory& memory) {
  const uint8_t* block = place.segment->packed + place.block * dense_block_bytes<Element>(layer.columns);
  const int num_blocks = (place.outputs + kBlockRows - 1) / kBlockRows;
  const Element* panel = rows + first_row * layer.columns;  // the same place in both layouts: panels begin at whole tiles
  std::memset(memory.sums, 0, sizeof(memory.sums[0]) * std::min(kSumRows, num_rows + kSpareRows));
#if HR_AMX
  if (use_amx<Element>(layer.columns)) {
    if constexpr (kPack<Element> == 2) amx_panel(block, num_blocks, panel, layer.columns, num_rows, memory);
  } else
#endif
    vector_panel(block, num_blocks, panel, layer.columns, num_rows, memory);
  for (int r = 0; r < num_rows; ++r)
    for (int c = 0; c < place.outputs; c += kBlockRows)
      layer.out.put(first_row + r, place.column + c, std::min(kBlockRows, place.outputs - c),
                    load<F32x16>(memory.sums[r] + c), place.bias ? place.bias + c : nullptr);
}

template <class Element>
void many_rows(const LinearLayer& layer) {
  // wider tasks read each row fewer times, narrower ones share out evenly
  const int span = layer.num_rows >= 256 ? kSpan : 4;
  const int64_t num_tasks = num_places(layer.segments, layer.num_segments, span);
  const int64_t num_panels = (layer.num_rows + kPanelRows - 1) / kPanelRows;
  // panels of equal height, in whole register tiles
  const int64_t height = ((layer.num_rows + num_panels - 1) / num_panels + kPanelStep - 1) / kPanelStep * kPanelStep;
  thread_local std::vector<Element> memory;
  Element* rows = reserve(memory, layer.num_rows, layer.columns);
  parallel_for(layer.num_rows, 4, [&](int64_t r) {
#if HR_AMX
    if constexpr (kPack<Element> == 2)
      if (use_amx<Element>(layer.columns))
        return prepare_amx_row(layer.input, layer.input_row(r), layer.x_is_bf16, layer.columns, r, rows);
#endif
    prepare(layer, r, rows);
  });
  parallel_for(num_panels * num_tasks, [&](int64_t task) {
    const int64_t first_row = task / num_tasks * height;
    const int64_t num_rows = std::min(height, layer.num_rows - first_row);
    if (num_rows > 0)
      panel_task(layer, rows, place_block(layer.segments, task % num_tasks, span), first_row, static_cast<int>(num_rows),
                 thread_scratch<PanelMemory>());
  });
}

template <class Element>
void multiply(const LinearLayer& layer) {
  if (layer.num_rows == 0) return;
  if (layer.num_rows <= kFewRows)
    few_rows<Element>(layer);
  else
    many_rows<Element>(layer);
}

}  // namespace

// Over packed bf16 matrices. K is a multiple of 16.
HR_API void hr_bf16_linear(HR_LINEAR_PARAMETERS) {
  multiply<Bf16>(linear_layer(HR_LINEAR_ARGUMENTS));
}

HR_REPLAYABLE(hr_bf16_linear)

// The same over packed fp32 matrices.
HR_API void hr_f32_linear(HR_LINEAR_PARAMETERS) {
  multiply<float>(linear_layer(HR_LINEAR_ARGUMENTS));
}

HR_REPLAYABLE(hr_f32_linear)
