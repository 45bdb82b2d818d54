// Operations on whole rows that no linear layer fuses: sums of two rows with a norm in them, norms that several layers share,
// gates, copies of parts of heads.
#include <cstring>
#include <vector>

#include "linear/linear_arguments.h"
#include "linear/row_input.h"
#include "runtime/parallel.h"
#include "runtime/replay.h"

using namespace hr;

namespace {

constexpr int64_t kAlone = 16384;  // elements; up to here the caller is done before the others would have begun

// f(row) over all rows
template <class Function>
void for_rows(int64_t num_rows, int64_t columns, const Function& f) {
  parallel_for(num_rows, std::max<int64_t>(1, kAlone / columns), f);
}

float* row_buffer(int64_t columns) {
  thread_local std::vector<float> buffer;
  if (static_cast<int64_t>(buffer.size()) < columns) buffer.resize(columns);
  return buffer.data();
}

// x = skip * x + scale * norm(y), or norm(skip * x + scale * y)
template <class X, class Y>
void join(X* x, const Y* y, int64_t columns, const InputSpec& norm, float skip, float scale, bool norms_sum) {
  float* buffer = row_buffer(columns);
  const F32x16 skips = broadcast(skip), scales = broadcast(scale);
  if (norms_sum) {
    for (int64_t k = 0; k < columns; k += 16)
      store(buffer + k, fma(load_lanes(x + k), skips, load_lanes(y + k) * scales));
    prepare_row(norm, buffer, columns, buffer);
    for (int64_t k = 0; k < columns; k += 16) store_lanes(x + k, load<F32x16>(buffer + k));
    return;
  }
  prepare_row(norm, y, columns, buffer);
  for (int64_t k = 0; k < columns; k += 16)
    store_lanes(x + k, fma(load_lanes(x + k), skips, load<F32x16>(buffer + k) * scales));
}

template <class Element>
void gate_row(Element* x, const Element* gate, int64_t columns, int64_t columns_each) {
  if (columns_each == 1) {
    for (int64_t k = 0; k < columns; k += 16) store_lanes(x + k, load_lanes(x + k) * sigmoid(load_lanes(gate + k)));
    return;
  }
  for (int64_t first = 0; first < columns; first += columns_each) {
    const F32x16 factor = sigmoid(broadcast(to_float(gate[first / columns_each])));
    for (int64_t k = first; k < first + columns_each; k += 16) store_lanes(x + k, load_lanes(x + k) * factor);
  }
}

template <class Element>
void bound_row(Element* x, int64_t columns, float limit) {
  const F32x16 high = broadcast(limit), low = broadcast(-limit);
  for (int64_t k = 0; k < columns; k += 16) {
    F32x16 v = load_lanes(x + k);  // not clamp(): NaN must stay NaN
    HR_EACH(v.r[i] = v.r[i] > high.r[i] ? high.r[i] : v.r[i])
    HR_EACH(v.r[i] = v.r[i] < low.r[i] ? low.r[i] : v.r[i])
    store_lanes(x + k, v);
  }
}

// f(pointer of the matrix's type)
template <class Function>
void with_type(const void* matrix, int is_bf16, const Function& f) {
  if (is_bf16)
    f(static_cast<Bf16*>(const_cast<void*>(matrix)));
  else
    f(static_cast<float*>(const_cast<void*>(matrix)));
}

}  // namespace

// out [M, K] fp32 = the rows prepared as those of a linear layer. K is a multiple of 16.
HR_API void hr_prepare_rows(HR_INPUT_PARAMETERS, float* out) {
  const InputSpec input{static_cast<InputKind>(input_kind), input_weight, input_bias, eps};
  with_type(x, x_is_bf16, [&](auto* rows) {
    for_rows(num_rows, columns, [&](int64_t r) { prepare_row(input, rows + r * x_stride, columns, out + r * columns); });
  });
}

HR_REPLAYABLE(hr_prepare_rows)

// x [M, K] = skip * x + scale * norm(y), or with norms_sum norm(skip * x + scale * y). x, y: bf16 or fp32, contiguous. The norm
// is an InputKind, kPlain for none. K is a multiple of 16.
HR_API void hr_join_rows(void* x, int x_is_bf16, const void* y, int y_is_bf16, int64_t num_rows, int64_t columns, int norm_kind,
                         const float* norm_weight, const float* norm_bias, float eps, float skip, float scale, int norms_sum) {
  const InputSpec norm{static_cast<InputKind>(norm_kind), norm_weight, norm_bias, eps};
  with_type(x, x_is_bf16, [&](auto* to) {
    with_type(y, y_is_bf16, [&](auto* from) {
      for_rows(num_rows, columns, [&](int64_t r) {
        join(to + r * columns, from + r * columns, columns, norm, skip, scale, norms_sum != 0);
      });
    });
  });
}

HR_REPLAYABLE(hr_join_rows)

// x [M, K] *= sigmoid(gate), with a gate for columns_each neighboring columns: 1, or a multiple of 16. x contiguous, gate's rows
// gate_stride elements apart; both bf16 or fp32. K is a multiple of 16.
HR_API void hr_gate_rows(void* x, const void* gate, int is_bf16, int64_t gate_stride, int64_t num_rows, int64_t columns,
                         int64_t columns_each) {
  with_type(x, is_bf16, [&](auto* rows) {
    const auto* gates = static_cast<decltype(rows)>(const_cast<void*>(gate));
    for_rows(num_rows, columns, [&](int64_t r) { gate_row(rows + r * columns, gates + r * gate_stride, columns, columns_each); });
  });
}

HR_REPLAYABLE(hr_gate_rows)

// x [M, K] bounded to +-limit; bf16 or fp32, contiguous. K is a multiple of 16.
HR_API void hr_bound_rows(void* x, int is_bf16, int64_t num_rows, int64_t columns, float limit) {
  with_type(x, is_bf16, [&](auto* rows) {
    for_rows(num_rows, columns, [&](int64_t r) { bound_row(rows + r * columns, columns, limit); });
  });
}

HR_REPLAYABLE(hr_bound_rows)

// out [M, H, bytes] = x; strides in bytes, between rows and between heads.
HR_API void hr_copy_heads(const char* x, int64_t x_stride, int64_t x_head_stride, char* out, int64_t out_stride,
                          int64_t out_head_stride, int64_t num_rows, int64_t num_heads, int64_t bytes) {
  for_rows(num_rows, num_heads * bytes, [&](int64_t r) {
    for (int64_t h = 0; h < num_heads; ++h)
      std::memcpy(out + r * out_stride + h * out_head_stride, x + r * x_stride + h * x_head_stride, bytes);
  });
}

HR_REPLAYABLE(hr_copy_heads)
