// Operations on whole rows that stand alone: norms and activations where no linear layer takes them in, greedy choice.
#include <limits>
#include <vector>

#include "row_input.h"

namespace {

using namespace hr;

template <class Element>
void prepare_rows(const InputSpec& input, const Element* x, int64_t x_stride, int64_t num_rows, int64_t columns, Element* out,
                  int64_t out_stride) {
  const bool worth_a_region = num_rows * columns >= 65536;
#pragma omp parallel if (worth_a_region)
  {
    std::vector<float> prepared(columns);
#pragma omp for schedule(dynamic, 4)
    for (int64_t r = 0; r < num_rows; ++r) {
      prepare_row(input, x + r * x_stride, columns, prepared.data());
      for (int64_t k = 0; k < columns; k += 16) store_lanes(out + r * out_stride + k, load<F32x16>(prepared.data() + k));
    }
  }
}

// Index of the first largest of x[begin .. end); NaN is never the largest.
int64_t argmax(const float* x, int64_t begin, int64_t end) {
  // the largest value first, in vectors; then where it is: most of the row is read once
  F32x16 best = broadcast(-std::numeric_limits<float>::infinity());
  int64_t k = begin;
  for (; k + 16 <= end; k += 16) best = max(load<F32x16>(x + k), best);
  float largest = max_lanes(best);
  for (; k < end; ++k) largest = x[k] > largest ? x[k] : largest;
  for (k = begin; k < end && x[k] != largest;) ++k;
  return k;
}

}  // namespace

// out [num_rows, columns] = the prepared rows of x (InputKind of row_input.h; twice as wide for gated kinds). Both bf16 or
// fp32; columns is a multiple of 16; out may be x where the kind is not gated.
HR_API void hr_prepare_rows(int is_bf16, const void* x, int64_t x_stride, int64_t num_rows, int64_t columns, int input_kind,
                            const float* input_weight, const float* input_bias, float eps, void* out, int64_t out_stride) {
  const InputSpec input{static_cast<InputKind>(input_kind), input_weight, input_bias, eps};
  if (is_bf16)
    prepare_rows(input, static_cast<const Bf16*>(x), x_stride, num_rows, columns, static_cast<Bf16*>(out), out_stride);
  else
    prepare_rows(input, static_cast<const float*>(x), x_stride, num_rows, columns, static_cast<float*>(out), out_stride);
}

// out [num_rows] = index of the first largest value of each row of x, fp32; columns if a row has only NaN.
HR_API void hr_argmax_rows(const float* x, int64_t x_stride, int64_t num_rows, int64_t columns, int64_t* out) {
  const bool worth_a_region = num_rows > 1 && num_rows * columns >= 65536;
#pragma omp parallel for schedule(dynamic, 1) if (worth_a_region)
  for (int64_t r = 0; r < num_rows; ++r) out[r] = argmax(x + r * x_stride, 0, columns);
}
