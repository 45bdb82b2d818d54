// Where the results of a linear layer go: bias and residual added, rounded to the output's type, ragged ends cut.
#pragma once

#include "simd/simd.h"

namespace hr {

struct Output {
  void* data;            // [M, stride]
  int64_t stride;        // elements between rows
  const void* residual;  // null, or what is added: same type as data, which it may be
  int64_t residual_stride;
  bool is_bf16;

  // lanes 0 .. count - 1 of v become columns column .. column + count - 1; bias: those columns' values, or null
  HR_INLINE void put(int64_t row, int64_t column, int count, F32x16 v, const float* bias) const {
    if (is_bf16)
      put_as(static_cast<Bf16*>(data), static_cast<const Bf16*>(residual), row, column, count, v, bias);
    else
      put_as(static_cast<float*>(data), static_cast<const float*>(residual), row, column, count, v, bias);
  }

  // Asks for the memory that put() writes, which takes long where rows lie far apart.
  HR_INLINE void prefetch(int64_t row, int64_t column) const {
    __builtin_prefetch(static_cast<const char*>(data) + (row * stride + column) * (is_bf16 ? 2 : 4), 1, 3);
  }

 private:
  template <class Element>
  HR_INLINE void put_as(Element* out, const Element* add, int64_t row, int64_t column, int count, F32x16 v,
                        const float* bias) const {
    out += row * stride + column;
    if (add) add += row * residual_stride + column;
    if (count == 16) {
      if (bias) v = v + load<F32x16>(bias);
      if (add) v = v + load_lanes(add);
      store_lanes(out, v);
      return;
    }
    float lanes[16];
    store(lanes, v);
    for (int i = 0; i < count; ++i) {
      float x = lanes[i] + (bias ? bias[i] : 0.0f);
      if (add) x += to_float(add[i]);
      store_one(out + i, x);
    }
  }
};

}  // namespace hr
