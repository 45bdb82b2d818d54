// A matrix of its own for each head: out [T, H, N] = W [H, N, K] x [T, H, K], in bf16 with sums in fp32.
//
// W lies as dense_weights.cpp packs a matrix [H * N, K]; N and K are multiples of 16, so that no block of 16 output rows belongs
// to two heads. x and out have strides between rows and between heads.
//
// A task is up to kProductVectors blocks of one head times a panel of rows, in register tiles of kProductRows rows. With few
// rows it streams the blocks from memory; with many, later rows find them in the cache.
#include <algorithm>

#include "linear/segments.h"
#include "runtime/parallel.h"
#include "runtime/replay.h"
#include "simd/register_tile.h"
#include "simd/simd.h"

namespace {

using namespace hr;

constexpr int64_t kPanelRows = 96;

struct Layer {
  const Bf16* x;
  int64_t x_stride, x_head_stride;
  Bf16* out;
  int64_t out_stride, out_head_stride;
  const char* packed;
  int64_t num_rows, num_heads, columns, outputs;

  int64_t block_bytes() const { return columns * kBlockRows * 2; }
};

template <int R, int C>
void multiply_tile(const Layer& layer, const char* blocks, const Bf16* x, Bf16* out) {
  F32x16 sums[R][C] = {};
  const int64_t stride = layer.block_bytes();
  for (int64_t k = 0; k < layer.columns / 2; ++k) {
    Bits w[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) w[c] = load<Bits>(blocks + c * stride + 64 * k);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const uint32_t pair = load_u32(x + r * layer.x_stride + 2 * k);
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) sums[r][c] = dot_bf16(sums[r][c], pair, w[c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) store_bf16(out + r * layer.out_stride + c * kBlockRows, sums[r][c]);
}

// `num_rows` rows by `cols` blocks, in the largest tiles that fit
template <int R, int C>
void multiply(const Layer& layer, const char* blocks, const Bf16* x, Bf16* out, int64_t num_rows, int cols) {
  if constexpr (C > 1) {
    if (cols < C) return multiply<R, C - 1>(layer, blocks, x, out, num_rows, cols);
  }
  for (; num_rows >= R; num_rows -= R, x += R * layer.x_stride, out += R * layer.out_stride)
    multiply_tile<R, C>(layer, blocks, x, out);
  if constexpr (R > 1) {
    if (num_rows > 0) multiply<R / 2, C>(layer, blocks, x, out, num_rows, cols);
  }
}

}  // namespace

// x, out: bf16; strides in elements. packed: hr_dense_packed_bytes(1, num_heads * outputs, columns) bytes, aligned to 64.
HR_API void hr_head_linear(const void* x, int64_t x_stride, int64_t x_head_stride, void* out, int64_t out_stride,
                           int64_t out_head_stride, const void* packed, int64_t num_rows, int64_t num_heads, int64_t columns,
                           int64_t outputs) {
  const Layer layer{static_cast<const Bf16*>(x), x_stride, x_head_stride, static_cast<Bf16*>(out), out_stride, out_head_stride,
                    static_cast<const char*>(packed), num_rows, num_heads, columns, outputs};
  const int64_t blocks = outputs / kBlockRows, runs = (blocks + kProductVectors - 1) / kProductVectors;  // of a head
  const int64_t panels = (num_rows + kPanelRows - 1) / kPanelRows;
  parallel_for(num_heads * runs * panels, [&](int64_t task) {
    const int64_t panel = task % panels, run = task / panels % runs, head = task / panels / runs;
    const int64_t row = panel * kPanelRows, block = run * kProductVectors;
    multiply<kProductRows, kProductVectors>(layer, layer.packed + (head * blocks + block) * layer.block_bytes(),
                           layer.x + row * x_stride + head * x_head_stride,
                           layer.out + row * out_stride + head * out_head_stride + block * kBlockRows,
                           std::min(kPanelRows, num_rows - row),
                           static_cast<int>(std::min<int64_t>(kProductVectors, blocks - block)));
  });
}

HR_REPLAYABLE(hr_head_linear)
