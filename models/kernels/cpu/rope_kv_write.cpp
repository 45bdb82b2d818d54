// Rotary embedding of q and k rows, and the store of k and v rows into the paged KV tensor; either alone or both.
//
//   half-split pairs:   (x[i], x[i + R/2])   <- (x[i] cos - x[i + R/2] sin,  x[i + R/2] cos + x[i] sin)
//   interleaved pairs:  (x[2i], x[2i + 1])   likewise
//
// over the first R dimensions of each head, with cos and sin [max_position, R / 2] in fp32. q and k rows are rotated in
// place (they are views of one fused projection, hence the row strides), v is only copied. One thread takes whole rows:
// a row's stores into a tile's lanes never share an element with another row's. A negative slot is not stored.
#include "kv_layout.h"
#include "simd.h"

namespace {

using namespace hr;

struct Rotation {
  const float *cos, *sin;  // the row of this position, [R / 2]
  int num_pairs;
  bool interleaved;
};

template <class Element>
void rotate_head(Element* x, const Rotation& rotation) {
  const int step = rotation.interleaved ? 2 : 1, apart = rotation.interleaved ? 1 : rotation.num_pairs;
  int i = 0;
  for (; !rotation.interleaved && i + 16 <= rotation.num_pairs; i += 16) {
    const F32x16 cos = load<F32x16>(rotation.cos + i), sin = load<F32x16>(rotation.sin + i);
    const F32x16 a = load_lanes(x + i), b = load_lanes(x + i + apart);
    store_lanes(x + i, a * cos - b * sin);
    store_lanes(x + i + apart, b * cos + a * sin);
  }
  for (; i < rotation.num_pairs; ++i) {
    const float cos = rotation.cos[i], sin = rotation.sin[i];
    const float a = to_float(x[i * step]), b = to_float(x[i * step + apart]);
    store_one(x + i * step, a * cos - b * sin);
    store_one(x + i * step + apart, b * cos + a * sin);
  }
}

template <class Element>
void store_token(const Element* k, const Element* v, int64_t slot, Element* kv, int num_kv_heads, int head_dim) {
  const int lane = static_cast<int>(slot % kTile);
  for (int head = 0; head < num_kv_heads; ++head) {
    Element* keys = kv + keys_offset(slot / kTile, num_kv_heads, head, head_dim);
    Element* values = keys + kTile * head_dim;
    const Element *key = k + head * head_dim, *value = v + head * head_dim;
    for (int d = 0; d < head_dim; d += kPack<Element>)
      std::memcpy(keys + key_index<Element>(lane, d), key + d, 4);  // one pack
    for (int d = 0; d < head_dim; ++d) values[value_index<Element>(lane, d, head_dim)] = value[d];
  }
}

struct Rows {
  void *q, *k;
  const void* v;
  int64_t q_stride, k_stride, v_stride;
  const int64_t *positions, *slots;
  const float *cos, *sin;
  void* kv;
  int num_tokens, num_heads, num_kv_heads, head_dim, rotary_dim;
  bool interleaved;
};

template <class Element>
void process(const Rows& rows) {
  // a few rows cost less than waking the other threads
  const bool worth_a_region = rows.num_tokens >= 16;
#pragma omp parallel for schedule(dynamic, 8) if (worth_a_region)
  for (int t = 0; t < rows.num_tokens; ++t) {
    Element* k = static_cast<Element*>(rows.k) + t * rows.k_stride;
    if (rows.cos) {
      const int num_pairs = rows.rotary_dim / 2;
      const Rotation rotation{rows.cos + rows.positions[t] * num_pairs, rows.sin + rows.positions[t] * num_pairs, num_pairs,
                              rows.interleaved};
      Element* q = static_cast<Element*>(rows.q) + t * rows.q_stride;
      for (int head = 0; head < rows.num_heads; ++head) rotate_head(q + head * rows.head_dim, rotation);
      for (int head = 0; head < rows.num_kv_heads; ++head) rotate_head(k + head * rows.head_dim, rotation);
    }
    if (rows.kv && rows.slots[t] >= 0)
      store_token(k, static_cast<const Element*>(rows.v) + t * rows.v_stride, rows.slots[t], static_cast<Element*>(rows.kv),
                  rows.num_kv_heads, rows.head_dim);
  }
}

}  // namespace

// is_bf16: q, k, v and kv are bf16, else fp32. cos null: no rotation (q, positions unused). kv null: no store (v, slots
// unused). Strides in elements between rows; the heads of a row are contiguous.
HR_API void hr_rope_kv_write(int is_bf16, void* q, int64_t q_stride, void* k, int64_t k_stride, const void* v, int64_t v_stride,
                             const int64_t* positions, const float* cos, const float* sin, int rotary_dim, int interleaved,
                             const int64_t* slots, void* kv, int num_tokens, int num_heads, int num_kv_heads, int head_dim) {
  const Rows rows{q,   k,  v,          q_stride,  k_stride,     v_stride, positions, slots, cos,
                  sin, kv, num_tokens, num_heads, num_kv_heads, head_dim, rotary_dim, interleaved != 0};
  if (is_bf16)
    process<Bf16>(rows);
  else
    process<float>(rows);
}
