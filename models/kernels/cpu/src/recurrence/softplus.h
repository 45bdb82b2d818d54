// softplus(x) = log(1 + e^x) of vectors, for decays of recurrences.
#pragma once

#include "simd/simd.h"

namespace hr {

// max(x, 0) + log(1 + t) with t = e^-|x|, and log(1 + t) = 2 artanh(s), s = t / (2 + t) <= 1/3. Relative error below 2e-6 above -16;
// NaN stays NaN.
HR_INLINE F32x16 softplus(const F32x16& x) {
  const F32x16 one = broadcast(1.0f), t = exp2(abs(x) * broadcast(-1.44269504f));
  const F32x16 s = t / (one + one + t), w = s * s;
  F32x16 p = broadcast(1.0f / 13);
  p = fma(p, w, broadcast(1.0f / 11));
  p = fma(p, w, broadcast(1.0f / 9));
  p = fma(p, w, broadcast(1.0f / 7));
  p = fma(p, w, broadcast(1.0f / 5));
  p = fma(p, w, broadcast(1.0f / 3));
  p = fma(p, w, one);
  return nan_of(x, fma(s + s, p, max(x, broadcast(0.0f))));
}

}  // namespace hr
