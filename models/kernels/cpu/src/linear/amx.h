// Matrix products in AMX tiles: fp32 sums [rows, outputs] += bf16 activations [rows, K] * packed bf16 weights.
//
// A tile register holds 16 rows of 64 bytes. The packed layout of dense_weights.cpp ([K / 2][16 outputs][2]) is what the
// product instruction wants of its second operand, 16 vectors (32 columns) a tile; the first is 16 rows of 32 columns.
// Activations are stored tile by tile, [rows / 16][K / 32][16][32]: loaded from rows that lie kilobytes apart, a tile would
// touch 16 pages. Two tiles of rows by two of outputs share each load.
#pragma once

#include <atomic>

namespace hr {

// Whether products of many rows may use AMX, which adds up in another order than products of few rows.
inline std::atomic<bool> allows_amx{true};

}  // namespace hr

#if defined(__AMX_BF16__)
#define HR_AMX 1

#include <immintrin.h>

#include <vector>

#include "linear/row_input.h"
#include "simd/simd.h"

namespace hr {

constexpr int kAmxTileRows = 16;
constexpr int kAmxColumns = 32;  // columns of one product

// The tile registers of this thread, set up while the object lives and no longer, since the operating system saves them (8 KiB)
// at every switch of threads.
class AmxTiles {
 public:
  AmxTiles() {
    struct alignas(64) {
      uint8_t palette, start_row, reserved[14];
      uint16_t bytes_per_row[16];
      uint8_t rows[16];
    } config = {};
    config.palette = 1;
    for (int tile = 0; tile < 8; ++tile) {
      config.bytes_per_row[tile] = 64;
      config.rows[tile] = 16;
    }
    _tile_loadconfig(&config);
  }
  ~AmxTiles() { _tile_release(); }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;
};

constexpr int kAmxTileBytes = 1024;

// Columns k .. k + 31 of a row in tiles; the rows have `columns` columns.
inline Bf16* amx_activation(Bf16* tiles, int64_t row, int64_t k, int64_t columns) {
  return tiles + row / kAmxTileRows * kAmxTileRows * columns + k * kAmxTileRows + row % kAmxTileRows * kAmxColumns;
}

// Row `row` of tiles = the prepared row of x, rounded to bf16. columns: a multiple of 32.
inline void prepare_amx_row(const InputSpec& input, const void* x, bool x_is_bf16, int64_t columns, int64_t row, Bf16* tiles) {
  thread_local std::vector<float> buffer;
  thread_local std::vector<Bf16> rounded;
  if (static_cast<int64_t>(buffer.size()) < columns) {
    buffer.resize(columns);
    rounded.resize(columns);
  }
  prepare_row_bf16(input, x, x_is_bf16, columns, buffer.data(), rounded.data());
  for (int64_t k = 0; k < columns; k += kAmxColumns)
    store(amx_activation(tiles, row, k, columns), load<Bits>(rounded.data() + k));
}

// kA * 16 rows times kB * 16 outputs over num_steps * 32 columns. Strides in bytes: between tiles of rows, blocks of
// outputs, rows of sums.
template <int kA, int kB>
void amx_tile(const char* a, int64_t a_stride, const char* b, int64_t b_stride, int64_t num_steps, char* sums, int64_t sums_stride) {
  char* lower_sums = sums + kAmxTileRows * sums_stride;
  _tile_loadd(0, sums, sums_stride);
  if constexpr (kB == 2) _tile_loadd(1, sums + 64, sums_stride);
  if constexpr (kA == 2) _tile_loadd(2, lower_sums, sums_stride);
  if constexpr (kA == 2 && kB == 2) _tile_loadd(3, lower_sums + 64, sums_stride);
  for (int64_t step = 0; step < num_steps; ++step) {
    _tile_loadd(6, b + step * kAmxTileBytes, 64);
    _tile_loadd(4, a + step * kAmxTileBytes, 64);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kB == 2) {
      _tile_loadd(7, b + b_stride + step * kAmxTileBytes, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kA == 2) {
      _tile_loadd(5, a + a_stride + step * kAmxTileBytes, 64);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (kA == 2 && kB == 2) _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, sums_stride);
  if constexpr (kB == 2) _tile_stored(1, sums + 64, sums_stride);
  if constexpr (kA == 2) _tile_stored(2, lower_sums, sums_stride);
  if constexpr (kA == 2 && kB == 2) _tile_stored(3, lower_sums + 64, sums_stride);
}

// sums [num_rows rounded up to 16, sums_stride floats] += activations * num_blocks (1 or 2) blocks of 16 outputs, b_stride
// bytes apart, over num_steps * 32 columns. a: tiles of the first row at the first column; rows have `columns` columns.
inline void amx_multiply(const Bf16* a, int64_t columns, int num_rows, const void* b, int64_t b_stride, int num_blocks,
                         int64_t num_steps, float* sums, int64_t sums_stride) {
  const int64_t a_stride = kAmxTileRows * columns * 2, sums_bytes = sums_stride * 4;
  for (int row = 0; row < num_rows; row += 2 * kAmxTileRows) {
    const char* rows = reinterpret_cast<const char*>(a) + row / kAmxTileRows * a_stride;
    char* out = reinterpret_cast<char*>(sums) + row * sums_bytes;
    const bool two = num_rows - row > kAmxTileRows;
    const auto tile = num_blocks == 2 ? (two ? amx_tile<2, 2> : amx_tile<1, 2>) : (two ? amx_tile<2, 1> : amx_tile<1, 1>);
    tile(rows, a_stride, static_cast<const char*>(b), b_stride, num_steps, out, sums_bytes);
  }
}

}  // namespace hr

#else
#define HR_AMX 0
#endif
