// The selective scan over the rows of several sequences, whose state is h [N, channels] (SelectiveScanSpec):
//
//   h' = exp(d A) h + d x B,   y = sum over n of C[n] h'[n] + D x,   out = y silu(z),   d = softplus(in_d)
//
// d, x, z and y are one number per channel; B and C [N] are shared by all channels, after an RMS norm of each where there is one.
// All in fp32.
//
// One thread takes a strip of channels of one sequence, row after row, with the state in memory of its own.
#include <algorithm>
#include <vector>

#include "linear/row_input.h"
#include "recurrence/products.h"
#include "recurrence/softplus.h"
#include "runtime/parallel.h"
#include "runtime/replay.h"

namespace {

using namespace hr;

constexpr int64_t kStrip = 32;    // channels
constexpr int64_t kGrain = 4096;  // elements of states; fewer are not worth a second thread

struct Scan {
  const float *x, *steps, *b, *c;
  int64_t bc_stride;
  const float *b_norm, *c_norm;
  float eps;
  const float *A, *D;
  const void* z;
  int64_t z_stride;
  float* state;
  const int32_t *sources, *targets, *offsets;
  void* out;
  int64_t channels, state_size;
};

struct Scratch {
  std::vector<float> state, b, c;
};

const float* normalized(const float* x, const float* weight, float eps, int64_t size, std::vector<float>& buffer) {
  if (!weight) return x;
  normalize_row(InputSpec{InputKind::kRmsNorm, weight, nullptr, eps}, x, size, buffer.data());
  return buffer.data();
}

template <class Element>
void run_strip(const Scan& scan, int64_t sequence, int64_t first) {
  const WithoutSubnormals without_subnormals;
  Scratch& scratch = thread_scratch<Scratch>();
  const int64_t N = scan.state_size, channels = scan.channels, columns = std::min(kStrip, channels - first);
  const auto reserve = [](std::vector<float>& buffer, size_t size) { buffer.resize(std::max(buffer.size(), size)); };
  reserve(scratch.state, N * kStrip);
  reserve(scratch.b, N);
  reserve(scratch.c, N);
  float* now = scratch.state.data();
  const auto place = [&](int32_t block, int64_t n) { return scan.state + (block * N + n) * channels + first; };
  const int32_t source = scan.sources[sequence];
  for (int64_t n = 0; n < N; ++n)
    for (int64_t k = 0; k < columns; k += 16) store(now + n * kStrip + k, source < 0 ? broadcast(0.0f) : load<F32x16>(place(source, n) + k));
  const F32x16 log2_e = broadcast(1.44269504f);
  for (int64_t t = scan.offsets[sequence]; t < scan.offsets[sequence + 1]; ++t) {
    const float* b = normalized(scan.b + t * scan.bc_stride, scan.b_norm, scan.eps, N, scratch.b);
    const float* c = normalized(scan.c + t * scan.bc_stride, scan.c_norm, scan.eps, N, scratch.c);
    const Element* z = static_cast<const Element*>(scan.z) + t * scan.z_stride + first;
    Element* out = static_cast<Element*>(scan.out) + t * channels + first;
    for (int64_t k = 0; k < columns; k += 16) {
      const int64_t at = t * channels + first + k;
      const F32x16 x = load<F32x16>(scan.x + at), step = softplus(load<F32x16>(scan.steps + at)), value = step * x;
      const F32x16 rate = step * log2_e;
      F32x16 y = x * load<F32x16>(scan.D + first + k);
      for (int64_t n = 0; n < N; ++n) {
        const F32x16 decay = exp2(rate * load<F32x16>(scan.A + n * channels + first + k));
        const F32x16 h = fma(decay, load<F32x16>(now + n * kStrip + k), value * broadcast(b[n]));
        store(now + n * kStrip + k, h);
        y = fma(broadcast(c[n]), h, y);
      }
      store_lanes(out + k, y * silu(load_lanes(z + k)));
    }
    if (scan.targets[t] < 0) continue;
    for (int64_t n = 0; n < N; ++n)
      for (int64_t k = 0; k < columns; k += 16) store(place(scan.targets[t], n) + k, load<F32x16>(now + n * kStrip + k));
  }
}

template <class Element>
void run(const Scan& scan, int64_t num_sequences) {
  const int64_t strips = (scan.channels + kStrip - 1) / kStrip;
  const int64_t rows_each = std::max<int64_t>(1, scan.offsets[num_sequences] / std::max<int64_t>(1, num_sequences));
  const int64_t cost = kStrip * scan.state_size * rows_each;
  parallel_for(num_sequences * strips, std::max<int64_t>(1, kGrain / cost),
               [&](int64_t i) { run_strip<Element>(scan, i / strips, i % strips * kStrip); });
}

}  // namespace

// x, steps [T, channels] fp32: after the convolution; before the softplus. b, c [T, N] fp32, with bc_stride elements between rows;
// b_norm, c_norm [N]: weights of their norms, null without. A [N, channels], the negative rates, and D [channels] in fp32. z [T,
// channels] in bf16 or fp32, with z_stride elements between rows. state [blocks, N, channels] fp32; sources, targets and offsets as
// in hr_causal_conv. out [T, channels] in z's type. channels and N: multiples of 16.
HR_API void hr_selective_scan(const float* x, const float* steps, const float* b, const float* c, int64_t bc_stride, const float* b_norm,
                              const float* c_norm, float eps, const float* A, const float* D, int is_bf16, const void* z,
                              int64_t z_stride, float* state, const int32_t* sources, const int32_t* targets, const int32_t* offsets,
                              int num_sequences, void* out, int64_t channels, int state_size) {
  const Scan scan{x, steps, b, c, bc_stride, b_norm, c_norm, eps, A, D, z, z_stride, state, sources, targets, offsets, out, channels, state_size};
  if (is_bf16)
    run<Bf16>(scan, num_sequences);
  else
    run<float>(scan, num_sequences);
}

HR_REPLAYABLE(hr_selective_scan)
