// Rotary embedding of q and k rows, a factor per row for q, and the store of k and v rows into the paged KV tensor; each part
// is optional.
//
//   (x[i], x[i + R/2])  <-  (x[i] cos[i] - x[i + R/2] sin[i],  x[i + R/2] cos[i] + x[i] sin[i]),   i < R/2
//
// over the first R dimensions of each head, with cos and sin [T, R / 2] in fp32. q and k rows are rotated in
// place (they are views of one fused projection, hence the row strides), v is only copied, where there is one beside k. One
// thread takes whole rows: a row's stores into a tile's lanes never share an element with another row's. A negative slot is
// not stored. A center of keys may be subtracted before they are rotated: one for rows without rotation, which are at position 0,
// and one for the others (attention_center.h). Where the tensor has codes (kv_codes.h), rows are quantized when they are stored.
#include <algorithm>

#include "attention/kv_codes.h"
#include "attention/kv_layout.h"
#include "attention/kv_quantize.h"
#include "runtime/parallel.h"
#include "runtime/replay.h"
#include "simd/simd.h"

namespace {

using namespace hr;

template <class Element>
void rotate_head(Element* x, const float* cos, const float* sin, int num_pairs) {
  int i = 0;
  for (; i + 16 <= num_pairs; i += 16) {
    const F32x16 c = load<F32x16>(cos + i), s = load<F32x16>(sin + i);
    const F32x16 a = load_lanes(x + i), b = load_lanes(x + i + num_pairs);
    store_lanes(x + i, a * c - b * s);
    store_lanes(x + i + num_pairs, b * c + a * s);
  }
  for (; i < num_pairs; ++i) {
    const float a = to_float(x[i]), b = to_float(x[i + num_pairs]);
    store_one(x + i, a * cos[i] - b * sin[i]);
    store_one(x + i + num_pairs, b * cos[i] + a * sin[i]);
  }
}

template <class Element>
void store_token(const Element* k, const Element* v, int64_t slot, Element* kv, int num_kv_heads, int head_dim, int value_dim) {
  const int lane = static_cast<int>(slot % kTile);
  for (int head = 0; head < num_kv_heads; ++head) {
    Element* keys = kv + keys_offset(slot / kTile, num_kv_heads, head, head_dim + value_dim);
    const Element* key = k + head * head_dim;
    for (int d = 0; d < head_dim; d += kPack<Element>)
      std::memcpy(keys + key_index<Element>(lane, d), key + d, 4);  // one pack
    if (!v) continue;
    Element* values = keys + kTile * head_dim;
    const Element* value = v + head * value_dim;
    for (int d = 0; d < value_dim; ++d) values[value_index<Element>(lane, d, value_dim)] = value[d];
  }
}

template <class Element>
void store_codes_of_token(int code, const Element* k, const Element* v, int64_t slot, uint8_t* kv, int num_kv_heads,
                          int head_dim, int value_dim, const float* centers) {
  const int64_t head_bytes = coded_head_bytes(code, head_dim, value_dim);
  uint8_t* tile = kv + slot / kTile * num_kv_heads * head_bytes;
  with_code(code, [&](auto kv_code) {
    for (int head = 0; head < num_kv_heads; ++head, tile += head_bytes)
      store_coded<kv_code()>(k + head * head_dim, v ? v + head * value_dim : nullptr, centers ? centers + head * head_dim : nullptr,
                             static_cast<int>(slot % kTile), tile, head_dim, value_dim);
  });
}

// Subtracts the centers of a token's keys, [2, heads, D]; sin: of the token's angles.
template <class Element>
void subtract_centers(Element* k, int size, const float* centers, const float* sin, int num_pairs) {
  if (std::any_of(sin, sin + num_pairs, [](float x) { return x != 0; })) centers += size;
  for (int d = 0; d < size; d += 16) store_lanes(k + d, load_lanes(k + d) - load<F32x16>(centers + d));
}

template <class Element>
void scale_row(Element* x, int size, float factor) {
  for (int i = 0; i < size; i += 16) store_lanes(x + i, load_lanes(x + i) * broadcast(factor));
}

struct Rows {
  void *q, *k;
  const void* v;
  int64_t q_stride, k_stride, v_stride;
  const int64_t* slots;
  const float *cos, *sin, *q_scale, *key_centers, *early_centers;
  void* kv;
  int num_tokens, num_heads, num_kv_heads, head_dim, value_dim, rotary_dim, code;
};

template <class Element>
void process(const Rows& rows) {
  constexpr int64_t kGrain = 16;  // rows; fewer are not worth a second thread
  parallel_for(rows.num_tokens, kGrain, [&](int64_t t) {
    Element* k = static_cast<Element*>(rows.k) + t * rows.k_stride;
    if (rows.cos) {
      const int num_pairs = rows.rotary_dim / 2;
      const float *cos = rows.cos + t * static_cast<int64_t>(num_pairs), *sin = rows.sin + t * static_cast<int64_t>(num_pairs);
      if (rows.early_centers) subtract_centers(k, rows.num_kv_heads * rows.head_dim, rows.early_centers, sin, num_pairs);
      Element* q = static_cast<Element*>(rows.q) + t * rows.q_stride;
      for (int head = 0; head < rows.num_heads; ++head) rotate_head(q + head * rows.head_dim, cos, sin, num_pairs);
      for (int head = 0; head < rows.num_kv_heads; ++head) rotate_head(k + head * rows.head_dim, cos, sin, num_pairs);
    }
    if (rows.q_scale)
      scale_row(static_cast<Element*>(rows.q) + t * rows.q_stride, rows.num_heads * rows.head_dim, rows.q_scale[t]);
    const Element* v = rows.v ? static_cast<const Element*>(rows.v) + t * rows.v_stride : nullptr;
    if (!rows.slots || rows.slots[t] < 0) return;
    if (rows.code == kNoCode)
      store_token(k, v, rows.slots[t], static_cast<Element*>(rows.kv), rows.num_kv_heads, rows.head_dim,
                  rows.value_dim);
    else
      store_codes_of_token(rows.code, k, v, rows.slots[t], static_cast<uint8_t*>(rows.kv), rows.num_kv_heads, rows.head_dim,
                           rows.value_dim, rows.key_centers);
  });
}

}  // namespace

// is_bf16: q, k, v and kv without a code are bf16, else fp32. code: the KvCode of kv. cos null: no rotation. q_scale: null, or [T]; q is unused without both. slots
// null: nothing is stored, and kv and v are unused. v null: values are part of the keys, and value_dim is 0. Strides in
// elements between rows; the heads of a row are contiguous, head_dim and value_dim are multiples of 16. key_centers: null, or
// [num_kv_heads, head_dim], subtracted from keys that become codes. early_centers: null, or [2, num_kv_heads, head_dim], subtracted
// before rotation.
HR_API void hr_rope_kv_write(int is_bf16, void* q, int64_t q_stride, void* k, int64_t k_stride, const void* v, int64_t v_stride,
                             const float* cos, const float* sin, int rotary_dim, const float* q_scale, const int64_t* slots,
                             void* kv, int num_tokens, int num_heads, int num_kv_heads, int head_dim, int value_dim,
                             int code, const float* key_centers, const float* early_centers) {
  const Rows rows{q,       k,  v,          q_stride,  k_stride,     v_stride, slots,     cos,        sin,
                  q_scale, key_centers, early_centers, kv, num_tokens, num_heads, num_kv_heads, head_dim, value_dim, rotary_dim, code};
  if (is_bf16)
    process<Bf16>(rows);
  else
    process<float>(rows);
}

HR_REPLAYABLE(hr_rope_kv_write)
