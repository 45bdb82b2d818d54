// The gated linear recurrent unit over the rows of several sequences, whose state is h [channels] (LinearUnitSpec):
//
//   h' = a h + m i x,   out = h' gelu(z),   i = sigmoid(in_i + i_bias),   m = sqrt(1 - a^2)
//   log a = -scale softplus(rate) sigmoid(in_a + a_bias)
//
// with m = 1 in the first row of a sequence that continues from no state. All in fp32, one number per channel each.
//
// One thread takes a strip of channels of one sequence, row after row, with the state in memory of its own.
#include <algorithm>
#include <cmath>
#include <vector>

#include "linear/row_input.h"
#include "recurrence/products.h"
#include "recurrence/softplus.h"
#include "runtime/parallel.h"
#include "runtime/replay.h"

namespace {

using namespace hr;

constexpr int64_t kStrip = 64;    // channels
constexpr int64_t kGrain = 4096;  // channels times rows; fewer are not worth a second thread

struct Unit {
  const void *x, *in_i, *in_a, *z;
  int64_t z_stride;
  const float *i_bias, *a_bias, *rate;
  float scale;
  float* state;
  const int32_t *sources, *targets, *offsets;
  void* out;
  int64_t channels;
};

// sqrt(1 - e^x) for x <= 0: near 0 by the series of e^x - 1, where 1 - e^x would have no digits left.
HR_INLINE F32x16 root_of_rest(const F32x16& x) {
  const F32x16 far = broadcast(1.0f) - exp2(x * broadcast(1.44269504f)), limit = broadcast(-0.5f);
  F32x16 p = broadcast(1.0f / 40320);
  p = fma(p, x, broadcast(1.0f / 5040));
  p = fma(p, x, broadcast(1.0f / 720));
  p = fma(p, x, broadcast(1.0f / 120));
  p = fma(p, x, broadcast(1.0f / 24));
  p = fma(p, x, broadcast(1.0f / 6));
  p = fma(p, x, broadcast(0.5f));
  p = fma(p, x, broadcast(1.0f));
  const F32x16 near = broadcast(0.0f) - x * p;
  F32x16 rest;
  HR_EACH(rest.r[i] = x.r[i] > limit.r[i] ? near.r[i] : far.r[i])
  float lanes[16];
  store(lanes, rest);
  for (int i = 0; i < 16; ++i) lanes[i] = std::sqrt(lanes[i]);
  return load<F32x16>(lanes);
}

template <class Element>
void run_strip(const Unit& unit, int64_t sequence, int64_t first) {
  const WithoutSubnormals without_subnormals;
  const int64_t channels = unit.channels, columns = std::min(kStrip, channels - first);
  const int32_t source = unit.sources[sequence];
  const int64_t start = unit.offsets[sequence], end = unit.offsets[sequence + 1];
  for (int64_t k = first; k < first + columns; k += 16) {
    const F32x16 i_bias = load<F32x16>(unit.i_bias + k), a_bias = load<F32x16>(unit.a_bias + k);
    const F32x16 rate = broadcast(-unit.scale) * softplus(load<F32x16>(unit.rate + k));
    F32x16 h = source < 0 ? broadcast(0.0f) : load<F32x16>(unit.state + source * channels + k);
    for (int64_t t = start; t < end; ++t) {
      const int64_t at = t * channels + k;
      const F32x16 x = load_lanes(static_cast<const Element*>(unit.x) + at);
      const F32x16 input = x * sigmoid(load_lanes(static_cast<const Element*>(unit.in_i) + at) + i_bias);
      const F32x16 log_decay = rate * sigmoid(load_lanes(static_cast<const Element*>(unit.in_a) + at) + a_bias);
      if (source < 0 && t == start)
        h = input;
      else
        h = fma(exp2(log_decay * broadcast(1.44269504f)), h, root_of_rest(log_decay + log_decay) * input);
      const F32x16 z = load_lanes(static_cast<const Element*>(unit.z) + t * unit.z_stride + k);
      store_lanes(static_cast<Element*>(unit.out) + at, h * gelu_tanh(z));
      if (unit.targets[t] >= 0) store(unit.state + unit.targets[t] * channels + k, h);
    }
  }
}

template <class Element>
void run(const Unit& unit, int64_t num_sequences) {
  const int64_t strips = (unit.channels + kStrip - 1) / kStrip;
  const int64_t rows_each = std::max<int64_t>(1, unit.offsets[num_sequences] / std::max<int64_t>(1, num_sequences));
  parallel_for(num_sequences * strips, std::max<int64_t>(1, kGrain / (kStrip * rows_each)),
               [&](int64_t i) { run_strip<Element>(unit, i / strips, i % strips * kStrip); });
}

}  // namespace

// x, in_i, in_a, out [T, channels], contiguous, and z [T, channels] with z_stride elements between rows: all bf16 or all fp32. i_bias,
// a_bias, rate [channels] in fp32. state [blocks, channels] fp32; sources, targets and offsets as in hr_causal_conv. channels: a
// multiple of 16.
HR_API void hr_linear_unit(int is_bf16, const void* x, const void* in_i, const void* in_a, const void* z, int64_t z_stride,
                           const float* i_bias, const float* a_bias, const float* rate, float scale, float* state, const int32_t* sources,
                           const int32_t* targets, const int32_t* offsets, int num_sequences, void* out, int64_t channels) {
  const Unit unit{x, in_i, in_a, z, z_stride, i_bias, a_bias, rate, scale, state, sources, targets, offsets, out, channels};
  if (is_bf16)
    run<Bf16>(unit, num_sequences);
  else
    run<float>(unit, num_sequences);
}

HR_REPLAYABLE(hr_linear_unit)
