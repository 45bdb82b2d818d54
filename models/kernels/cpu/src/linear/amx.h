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

// Where an operand of a product lies, in bytes: tiles of rows or of outputs, steps of 32 columns that are added up, and the
// rows of a tile register.
struct AmxOperand {
  const void* data;
  int64_t tile, step, row;
  const char* at(int64_t index, int64_t k) const { return static_cast<const char*>(data) + index * tile + k * step; }
};

// kA * 16 rows times kB * 16 outputs over num_steps * 32 columns. kAdds: to `sums`, else they are written. sums_stride: bytes
// between rows of sums.
#define HR_AMX_BEGIN(tile, from)                                                        \
  do {                                                                                  \
    if constexpr (kAdds) _tile_loadd(tile, from, sums_stride); else _tile_zero(tile);   \
  } while (0)
template <int kA, int kB, bool kAdds = true>
void amx_tile(const AmxOperand& a, const AmxOperand& b, int64_t num_steps, void* to, int64_t sums_stride) {
  char *sums = static_cast<char*>(to), *lower_sums = sums + kAmxTileRows * sums_stride;
  HR_AMX_BEGIN(0, sums);
  if constexpr (kB == 2) HR_AMX_BEGIN(1, sums + 64);
  if constexpr (kA == 2) HR_AMX_BEGIN(2, lower_sums);
  if constexpr (kA == 2 && kB == 2) HR_AMX_BEGIN(3, lower_sums + 64);
  for (int64_t k = 0; k < num_steps; ++k) {
    _tile_loadd(6, b.at(0, k), b.row);
    _tile_loadd(4, a.at(0, k), a.row);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kB == 2) {
      _tile_loadd(7, b.at(1, k), b.row);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kA == 2) {
      _tile_loadd(5, a.at(1, k), a.row);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (kA == 2 && kB == 2) _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, sums_stride);
  if constexpr (kB == 2) _tile_stored(1, sums + 64, sums_stride);
  if constexpr (kA == 2) _tile_stored(2, lower_sums, sums_stride);
  if constexpr (kA == 2 && kB == 2) _tile_stored(3, lower_sums + 64, sums_stride);
}
#undef HR_AMX_BEGIN

// The amx_tile of 16 or 32 rows and outputs.
template <bool kAdds = true>
auto amx_tile_of(bool two_rows, bool two_outputs) {
  if (two_rows) return two_outputs ? amx_tile<2, 2, kAdds> : amx_tile<2, 1, kAdds>;
  return two_outputs ? amx_tile<1, 2, kAdds> : amx_tile<1, 1, kAdds>;
}

// sums [num_rows rounded up to 16, sums_stride floats] += activations * num_blocks (1 or 2) blocks of 16 outputs, b_stride
// bytes apart, over num_steps * 32 columns. a: tiles of the first row at the first column; rows have `columns` columns.
inline void amx_multiply(const Bf16* a, int64_t columns, int num_rows, const void* b, int64_t b_stride, int num_blocks,
                         int64_t num_steps, float* sums, int64_t sums_stride) {
  for (int row = 0; row < num_rows; row += 2 * kAmxTileRows) {
    const AmxOperand rows{a + row * columns, kAmxTileRows * columns * 2, kAmxTileBytes, 64}, outputs{b, b_stride, kAmxTileBytes, 64};
    amx_tile_of(num_rows - row > kAmxTileRows, num_blocks == 2)(rows, outputs, num_steps, sums + row * sums_stride, sums_stride * 4);
  }
}

}  // namespace hr

#else
#define HR_AMX 0
#endif
