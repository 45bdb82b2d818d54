// What a linear layer does to a row before it multiplies it: nothing, a norm, or the activation of a feed-forward layer.
// Done where the row is read anyway (quantized, packed), so that it costs neither a pass over memory nor a parallel region.
#pragma once

#include "simd/simd.h"

namespace hr {

enum class InputKind : int32_t {
  kPlain = 0,
  kRmsNorm = 1,    // x / sqrt(mean(x^2) + eps) * weight
  kLayerNorm = 2,  // (x - mean(x)) / sqrt(var(x) + eps) * weight + bias
  kSiluGated = 3,  // silu(gate) * up; the row holds gate [K], then up [K]
  kGeluTanhGated = 4,
  kGeluTanh = 5,
  kSilu = 6,
  kGeluGated = 7,
  kGelu = 8,
  kGeluQuickGated = 9,
  kGeluQuick = 10,
  kReluGated = 11,
  kRelu = 12,
  kReluSquaredGated = 13,
  kReluSquared = 14,
  kSwigluClamped = 15,  // gate * sigmoid(alpha * gate) * (up + 1), gate at most `limit`, up within +-limit
  kSiluGatedScaled = 16,  // out * silu(scale * gate) * up
  kXielu = 17,  // beta x + alpha_p x^2 above 0, else beta x + alpha_n (exp(min(x, eps)) - 1 - x)
  kTanh = 18,
  kSigmoid = 19,
};

struct InputSpec {
  InputKind kind;
  const float *weight, *bias;  // [K]; of norms only, bias null for RMSNorm. weight is {alpha, limit} of kSwigluClamped,
                              // {scale, out} of kSiluGatedScaled, {alpha_p, alpha_n, beta, eps} of kXielu
  float eps;
};

HR_INLINE F32x16 sigmoid(const F32x16& x) {
  // 1 / (1 + 2^(-x log2 e)); the bound keeps 2^x within its range, the result is 0 to fp32 precision before that
  const F32x16 limit = broadcast(126.0f);
  F32x16 power = x * broadcast(-1.44269504f);
  HR_EACH(power.r[i] = power.r[i] < limit.r[i] ? power.r[i] : limit.r[i])
  return broadcast(1.0f) / (broadcast(1.0f) + exp2(power));
}

// 2 sigmoid(2x) - 1, to 1e-7
HR_INLINE F32x16 tanh(const F32x16& x) { return nan_of(x, fma(broadcast(2.0f), sigmoid(x + x), broadcast(-1.0f))); }

HR_INLINE F32x16 silu(const F32x16& x) { return x * sigmoid(x); }

// x / 2 * (1 + tanh(u)) = x * sigmoid(2u), u = sqrt(2 / pi) * (x + 0.044715 x^3)
HR_INLINE F32x16 gelu_tanh(const F32x16& x) {
  const F32x16 cubic = fma(x * x * x, broadcast(0.044715f), x);
  return x * sigmoid(broadcast(1.59576912f) * cubic);
}

// x * Phi(x). The tail 1 - Phi(|x|) is poly(t) exp(-x^2 / 2), t = 1 / (1 + p |x| / sqrt(2)) (Abramowitz, Stegun 7.1.26), to
// 1e-7; 1/2 is in the coefficients.
HR_INLINE F32x16 gelu(const F32x16& x) {
  const F32x16 t = broadcast(1.0f) / fma(abs(x), broadcast(0.3275911f * 0.70710678f), broadcast(1.0f));
  F32x16 p = broadcast(0.5307027145f);
  p = fma(p, t, broadcast(-0.7265760135f));
  p = fma(p, t, broadcast(0.7107068705f));
  p = fma(p, t, broadcast(-0.142248368f));
  p = fma(p, t, broadcast(0.127414796f));
  const F32x16 tail = p * t * exp2(x * x * broadcast(-0.72134752f));
  F32x16 share = broadcast(1.0f) - tail;
  HR_EACH(share.r[i] = x.r[i] < 0 ? tail.r[i] : share.r[i])
  return x * share;
}

HR_INLINE F32x16 gelu_quick(const F32x16& x) { return x * sigmoid(broadcast(1.702f) * x); }

// Not max(): NaN must stay NaN, or nobody notices it.
HR_INLINE F32x16 relu(F32x16 x) {
  const F32x16 zero = broadcast(0.0f);
  HR_EACH(x.r[i] = x.r[i] < zero.r[i] ? zero.r[i] : x.r[i])
  return x;
}

HR_INLINE F32x16 relu_squared(const F32x16& x) { return relu(x) * relu(x); }

HR_INLINE F32x16 swiglu_clamped(const F32x16& gate, const F32x16& up, float alpha, float limit) {
  const F32x16 g = clamp(gate, -3.4e38f, limit);
  return g * sigmoid(broadcast(alpha) * g) * (clamp(up, -limit, limit) + broadcast(1.0f));
}

HR_INLINE F32x16 xielu(const F32x16& x, const float* numbers) {
  const F32x16 bound = broadcast(numbers[3]), zero = broadcast(0.0f), linear = broadcast(numbers[2]) * x;
  F32x16 low = x;
  HR_EACH(low.r[i] = low.r[i] < bound.r[i] ? low.r[i] : bound.r[i])
  const F32x16 below = fma(broadcast(numbers[1]), exp2(low * broadcast(1.44269504f)) - broadcast(1.0f) - x, linear);
  F32x16 result = fma(broadcast(numbers[0]) * x, x, linear);
  HR_EACH(result.r[i] = x.r[i] > zero.r[i] ? result.r[i] : below.r[i])
  return result;
}

template <class Element>
void normalize_row(const InputSpec& input, const Element* x, int64_t columns, float* out) {
  F32x16 sum = broadcast(0.0f), squares = broadcast(0.0f);
  for (int64_t k = 0; k < columns; k += 16) {
    const F32x16 v = load_lanes(x + k);
    sum = sum + v;
    squares = fma(v, v, squares);
    store(out + k, v);
  }
  float mean = 0, variance = sum_lanes(squares) / columns;
  if (input.kind == InputKind::kLayerNorm) {
    // a second pass: E[x^2] - mean^2 cancels where the mean is large
    mean = sum_lanes(sum) / columns;
    squares = broadcast(0.0f);
    for (int64_t k = 0; k < columns; k += 16) {
      const F32x16 v = load<F32x16>(out + k) - broadcast(mean);
      squares = fma(v, v, squares);
    }
    variance = sum_lanes(squares) / columns;
  }
  const F32x16 scale = broadcast(1 / std::sqrt(variance + input.eps)), shift = broadcast(mean);
  for (int64_t k = 0; k < columns; k += 16) {
    F32x16 v = (load<F32x16>(out + k) - shift) * scale * load<F32x16>(input.weight + k);
    if (input.bias) v = v + load<F32x16>(input.bias + k);
    store(out + k, v);
  }
}

// out[k] = f(x[k])
template <class Element, class Function>
HR_INLINE void activate(const Element* x, int64_t columns, float* out, const Function& f) {
  for (int64_t k = 0; k < columns; k += 16) store(out + k, f(load_lanes(x + k)));
}

// out[k] = f(gate[k]) * up[k]
template <class Element, class Function>
HR_INLINE void activate_gated(const Element* gate, const Element* up, int64_t columns, float* out, const Function& f) {
  for (int64_t k = 0; k < columns; k += 16) store(out + k, f(load_lanes(gate + k)) * load_lanes(up + k));
}

// Whether a column of a prepared row depends on other columns.
inline bool is_norm(InputKind kind) { return kind == InputKind::kRmsNorm || kind == InputKind::kLayerNorm; }

// out [columns] fp32 = a run of columns of a prepared row: x are these of the row, or of its gate, and `up` those of its other
// half. Not for norms. columns is a multiple of 16.
template <class Element>
void prepare_columns(const InputSpec& input, const Element* x, const Element* up, int64_t columns, float* out) {
  switch (input.kind) {
    case InputKind::kRmsNorm:
    case InputKind::kLayerNorm: return;
    case InputKind::kPlain: return activate(x, columns, out, [](const F32x16& v) { return v; });
    case InputKind::kSilu: return activate(x, columns, out, [](const F32x16& v) { return silu(v); });
    case InputKind::kSiluGated: return activate_gated(x, up, columns, out, [](const F32x16& v) { return silu(v); });
    case InputKind::kGeluTanh: return activate(x, columns, out, [](const F32x16& v) { return gelu_tanh(v); });
    case InputKind::kGeluTanhGated: return activate_gated(x, up, columns, out, [](const F32x16& v) { return gelu_tanh(v); });
    case InputKind::kGelu: return activate(x, columns, out, [](const F32x16& v) { return gelu(v); });
    case InputKind::kGeluGated: return activate_gated(x, up, columns, out, [](const F32x16& v) { return gelu(v); });
    case InputKind::kGeluQuick: return activate(x, columns, out, [](const F32x16& v) { return gelu_quick(v); });
    case InputKind::kGeluQuickGated: return activate_gated(x, up, columns, out, [](const F32x16& v) { return gelu_quick(v); });
    case InputKind::kRelu: return activate(x, columns, out, [](const F32x16& v) { return relu(v); });
    case InputKind::kReluGated: return activate_gated(x, up, columns, out, [](const F32x16& v) { return relu(v); });
    case InputKind::kReluSquared: return activate(x, columns, out, [](const F32x16& v) { return relu_squared(v); });
    case InputKind::kReluSquaredGated: return activate_gated(x, up, columns, out, [](const F32x16& v) { return relu_squared(v); });
    case InputKind::kTanh: return activate(x, columns, out, [](const F32x16& v) { return tanh(v); });
    case InputKind::kSigmoid: return activate(x, columns, out, [](const F32x16& v) { return nan_of(v, sigmoid(v)); });
    case InputKind::kXielu: return activate(x, columns, out, [&](const F32x16& v) { return xielu(v, input.weight); });
    case InputKind::kSwigluClamped:
      for (int64_t k = 0; k < columns; k += 16)
        store(out + k, swiglu_clamped(load_lanes(x + k), load_lanes(up + k), input.weight[0], input.weight[1]));
      return;
    case InputKind::kSiluGatedScaled: {
      const F32x16 scale = broadcast(input.weight[0]), last = broadcast(input.weight[1]);
      return activate_gated(x, up, columns, out, [&](const F32x16& v) { return last * silu(scale * v); });
    }
  }
}

// out [columns] fp32 = the prepared row, of [gate | up] where the input is gated; columns is a multiple of 16
template <class Element>
void prepare_row(const InputSpec& input, const Element* x, int64_t columns, float* out) {
  if (is_norm(input.kind)) return normalize_row(input, x, columns, out);
  prepare_columns(input, x, x + columns, columns, out);
}

// out [columns] bf16 = the prepared row of x (bf16 or fp32); `buffer` has room for columns floats
inline void prepare_row_bf16(const InputSpec& input, const void* x, bool x_is_bf16, int64_t columns, float* buffer, Bf16* out) {
  if (x_is_bf16 && input.kind == InputKind::kPlain) {
    std::memcpy(out, x, columns * sizeof(Bf16));
    return;
  }
  if (x_is_bf16)
    prepare_row(input, static_cast<const Bf16*>(x), columns, buffer);
  else
    prepare_row(input, static_cast<const float*>(x), columns, buffer);
  for (int64_t k = 0; k < columns; k += 16) store_bf16(out + k, load<F32x16>(buffer + k));
}

}  // namespace hr
