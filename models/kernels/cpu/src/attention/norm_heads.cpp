// Norms of heads in place: x [T, H, D], over each head's vector (row_input.h), in bf16 or fp32, computed in fp32.
//
// Rows and heads may be strided: queries and keys are views of one fused projection, a latent is a part of a row of the cache.
#include <algorithm>
#include <vector>

#include "linear/row_input.h"
#include "runtime/parallel.h"
#include "runtime/replay.h"

namespace {

using namespace hr;

constexpr int64_t kGrain = 4096;  // elements; fewer are not worth a second thread

struct Heads {
  void* x;
  int64_t row_stride, head_stride;
  int64_t num_rows, num_heads, columns;
  InputSpec norm;         // of the first head
  int64_t weight_stride;  // between the weights of two heads; 0: one for all
};

template <class Element>
void normalize(const Heads& heads) {
  const int64_t count = heads.num_rows * heads.num_heads;
  parallel_for(count, std::max<int64_t>(1, kGrain / heads.columns), [&](int64_t i) {
    thread_local std::vector<float> buffer;
    if (static_cast<int64_t>(buffer.size()) < heads.columns) buffer.resize(heads.columns);
    const int64_t row = i / heads.num_heads, head = i % heads.num_heads;
    Element* x = static_cast<Element*>(heads.x) + row * heads.row_stride + head * heads.head_stride;
    InputSpec norm = heads.norm;
    norm.weight += head * heads.weight_stride;
    normalize_row(norm, x, heads.columns, buffer.data());
    for (int64_t k = 0; k < heads.columns; k += 16) store_lanes(x + k, load<F32x16>(buffer.data() + k));
  });
}

}  // namespace

// is_bf16: x, else fp32. Strides in elements; columns: a multiple of 16. norm_kind: kRmsNorm or kLayerNorm of InputKind. weight:
// [columns], or with a weight_stride a row for each head. bias: [columns] or null.
HR_API void hr_norm_heads(int is_bf16, void* x, int64_t row_stride, int64_t head_stride, int64_t num_rows, int64_t num_heads,
                          int64_t columns, int norm_kind, const float* weight, int64_t weight_stride, const float* bias, float eps) {
  const Heads heads{x,       row_stride, head_stride, num_rows, num_heads, columns, {static_cast<InputKind>(norm_kind), weight, bias, eps},
                    weight_stride};
  if (is_bf16)
    normalize<Bf16>(heads);
  else
    normalize<float>(heads);
}

HR_REPLAYABLE(hr_norm_heads)
