// Causal depthwise convolution over the rows of several sequences, whose last inputs are their state:
//
//   y[t] = sum over j < K of weight[j] * input[t - (K - 1) + j],  plus bias
//
// input[t] is rows[t], times gate[t] where there is one, rounded to their type. Inputs before a sequence's first row come from
// its state, zeros for a new sequence. Then y[t] is multiplied by out_gate[t], or goes through SiLU, if requested.
//
// One thread takes a strip of channels of one sequence, row after row, with the last K - 1 inputs in a ring of its own: a state may
// be written where it was read.
#include <algorithm>

#include "linear/row_input.h"
#include "runtime/parallel.h"
#include "runtime/replay.h"

namespace {

using namespace hr;

constexpr int kMaxKernelSize = 8;
constexpr int64_t kStrip = 64;    // channels
constexpr int64_t kGrain = 4096;  // elements; fewer are not worth a second thread

struct Conv {
  const void *rows, *gate, *out_gate;
  int64_t row_stride;
  const float *weight, *bias;
  bool has_silu;
  void* state;
  const int32_t *sources, *targets, *offsets;
  void* out;
  int64_t channels;
  int kernel_size;
};

template <class Element>
HR_INLINE F32x16 rounded(const F32x16& v) {
  Element lanes[16];
  store_lanes(lanes, v);
  return load_lanes(lanes);
}

template <class Element, class Out>
void convolve(const Conv& conv, int64_t sequence, int64_t first) {
  const Element *rows = static_cast<const Element*>(conv.rows), *gate = static_cast<const Element*>(conv.gate),
                *out_gate = static_cast<const Element*>(conv.out_gate);
  Element* states = static_cast<Element*>(conv.state);
  Out* out = static_cast<Out*>(conv.out);
  const int64_t columns = std::min(kStrip, conv.channels - first);
  const int num_stored = conv.kernel_size - 1;
  const auto place = [&](int32_t block, int j) { return states + (static_cast<int64_t>(block) * num_stored + j) * conv.channels + first; };

  float ring[kMaxKernelSize - 1][kStrip];  // the oldest input at `oldest`, then the others
  const int32_t source = conv.sources[sequence];
  for (int j = 0; j < num_stored; ++j)
    for (int64_t k = 0; k < columns; k += 16) store(ring[j] + k, source < 0 ? broadcast(0.0f) : load_lanes(place(source, j) + k));
  int oldest = 0;
  for (int64_t t = conv.offsets[sequence]; t < conv.offsets[sequence + 1]; ++t) {
    const int64_t row = t * conv.row_stride + first;
    for (int64_t k = 0; k < columns; k += 16) {
      F32x16 input = load_lanes(rows + row + k);
      if (gate) input = rounded<Element>(input * load_lanes(gate + row + k));
      const float* weight = conv.weight + first + k;
      F32x16 y = input * load<F32x16>(weight + num_stored * conv.channels);
      for (int j = 0; j < num_stored; ++j)
        y = fma(load<F32x16>(weight + j * conv.channels), load<F32x16>(ring[(oldest + j) % num_stored] + k), y);
      store(ring[oldest] + k, input);
      if (conv.bias) y = y + load<F32x16>(conv.bias + first + k);
      if (conv.has_silu) y = silu(y);
      if (out_gate) y = rounded<Element>(y) * load_lanes(out_gate + row + k);
      store_lanes(out + t * conv.channels + first + k, y);
    }
    oldest = (oldest + 1) % num_stored;
    if (conv.targets[t] < 0) continue;
    for (int j = 0; j < num_stored; ++j)
      for (int64_t k = 0; k < columns; k += 16)
        store_lanes(place(conv.targets[t], j) + k, load<F32x16>(ring[(oldest + j) % num_stored] + k));
  }
}

template <class Element, class Out>
void convolve_all(const Conv& conv, int64_t num_sequences) {
  const int64_t strips = (conv.channels + kStrip - 1) / kStrip;
  const int64_t rows_each = std::max<int64_t>(1, conv.offsets[num_sequences] / std::max<int64_t>(1, num_sequences));
  parallel_for(num_sequences * strips, std::max<int64_t>(1, kGrain / (kStrip * rows_each)),
               [&](int64_t i) { convolve<Element, Out>(conv, i / strips, i % strips * kStrip); });
}

}  // namespace

// rows, gate and out_gate [T, C], in bf16 or fp32, with row_stride elements between rows of each; the gates may be null.
// weight [K, C], K from 2 to 8, and bias [C], which may be null, in fp32. C: a multiple of 16. state [blocks, K - 1, C], oldest
// input first, in the rows' type. sources [S]: the blocks that sequences continue from, -1 for new ones; targets [T]:
// the block that takes the state after a row, -1 for none; offsets [S + 1]: of each sequence's rows. out [T, C], in the rows' type
// or fp32.
HR_API void hr_causal_conv(int is_bf16, const void* rows, const void* gate, const void* out_gate, int64_t row_stride,
                           const float* weight, const float* bias, int has_silu, void* state, const int32_t* sources,
                           const int32_t* targets, const int32_t* offsets, int num_sequences, int out_is_bf16, void* out,
                           int64_t channels, int kernel_size) {
  const Conv conv{rows, gate, out_gate, row_stride, weight, bias, has_silu != 0, state, sources, targets, offsets, out, channels, kernel_size};
  if (!is_bf16)
    convolve_all<float, float>(conv, num_sequences);
  else if (out_is_bf16)
    convolve_all<Bf16, Bf16>(conv, num_sequences);
  else
    convolve_all<Bf16, float>(conv, num_sequences);
}

HR_REPLAYABLE(hr_causal_conv)
