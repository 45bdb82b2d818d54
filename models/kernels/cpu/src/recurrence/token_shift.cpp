// Mixtures of each row with the row before it, over the rows of several sequences, whose last row is their state:
//
//   out[n][t] = x[t] + weight[n] (x[t - 1] - x[t])
//
// The row before a sequence's first one comes from its state, zeros for a new sequence.
//
// One thread takes a strip of channels of one sequence, row after row: a state may be written where it was read.
#include <algorithm>

#include "runtime/parallel.h"
#include "runtime/replay.h"
#include "simd/simd.h"

namespace {

using namespace hr;

constexpr int64_t kStrip = 64;    // channels
constexpr int64_t kGrain = 4096;  // elements; fewer are not worth a second thread

struct Shift {
  const float *x, *weight;
  int64_t num_mixtures;
  float* state;
  const int32_t *sources, *targets, *offsets;
  void* out;
  int64_t num_rows, channels;
};

template <class Element>
void shift_strip(const Shift& shift, int64_t sequence, int64_t first) {
  const int64_t channels = shift.channels, last = std::min(first + kStrip, channels);
  const int64_t source = shift.sources[sequence];
  for (int64_t k = first; k < last; k += 16) {
    F32x16 before = source < 0 ? broadcast(0.0f) : load<F32x16>(shift.state + source * channels + k);
    for (int64_t t = shift.offsets[sequence]; t < shift.offsets[sequence + 1]; ++t) {
      const F32x16 x = load<F32x16>(shift.x + t * channels + k), change = before - x;
      for (int64_t n = 0; n < shift.num_mixtures; ++n) {
        Element* out = static_cast<Element*>(shift.out) + (n * shift.num_rows + t) * channels + k;
        store_lanes(out, fma(load<F32x16>(shift.weight + n * channels + k), change, x));
      }
      before = x;
      if (shift.targets[t] >= 0) store(shift.state + static_cast<int64_t>(shift.targets[t]) * channels + k, x);
    }
  }
}

template <class Element>
void run(const Shift& shift, int64_t num_sequences) {
  const int64_t strips = (shift.channels + kStrip - 1) / kStrip;
  const int64_t rows_each = std::max<int64_t>(1, shift.num_rows / std::max<int64_t>(1, num_sequences));
  parallel_for(num_sequences * strips, std::max<int64_t>(1, kGrain / (kStrip * rows_each * shift.num_mixtures)),
               [&](int64_t i) { shift_strip<Element>(shift, i / strips, i % strips * kStrip); });
}

}  // namespace

// x [T, C] and weight [num_mixtures, C] in fp32. state [blocks, C] fp32; sources, targets and offsets as in hr_causal_conv. out
// [num_mixtures, T, C] in bf16 or fp32. C: a multiple of 16.
HR_API void hr_shift_rows(const float* x, const float* weight, int num_mixtures, float* state, const int32_t* sources,
                          const int32_t* targets, const int32_t* offsets, int num_sequences, int out_is_bf16, void* out,
                          int64_t channels) {
  const Shift shift{x, weight, num_mixtures, state, sources, targets, offsets, out, offsets[num_sequences], channels};
  if (out_is_bf16)
    run<Bf16>(shift, num_sequences);
  else
    run<float>(shift, num_sequences);
}

HR_REPLAYABLE(hr_shift_rows)
