// bf16 and fp32 matrices -> packed weights, and packed weights -> rows.
//
// Layout. A matrix [N, K] is cut into blocks of 16 output rows (the last one padded with zeros), each
// [K / pack][16 rows][pack columns], with pack = 2 for bf16 and 1 for fp32: one 64-byte vector holds a unit of columns of 16
// rows, what one instruction consumes (a bf16 dot product, or a multiplication and addition). K is a multiple of 16.
#include "dense/dense_products.h"
#include "linear/row_runs.h"
#include "linear/segments.h"
#include "runtime/parallel.h"
#include "runtime/replay.h"

namespace {

using namespace hr;

template <class Element>
void pack(const Element* raw, int64_t rows, int64_t columns, uint8_t* packed) {
  parallel_for((rows + kBlockRows - 1) / kBlockRows, 4, [&](int64_t block) {
    uint32_t* target = reinterpret_cast<uint32_t*>(packed + block * dense_block_bytes<Element>(columns));
    for (int lane = 0; lane < kBlockRows; ++lane) {
      const int64_t row = block * kBlockRows + lane;
      for (int64_t k = 0; k < columns / kPack<Element>; ++k)
        target[k * kBlockRows + lane] = row < rows ? load_u32(raw + row * columns + kPack<Element> * k) : 0;
    }
  });
}

template <class Element>
void gather(const uint8_t* packed, int64_t columns, const int64_t* ids, int64_t num_ids, Element* out) {
  for_row_runs(ids, num_ids, [&](int64_t i, int64_t block, int lane, int count) {
    const uint8_t* from = packed + block * dense_block_bytes<Element>(columns) + 4 * lane;
    for (int64_t k = 0; k < columns / kPack<Element>; ++k)
      for (int row = 0; row < count; ++row)
        std::memcpy(out + (i + row) * columns + kPack<Element> * k, from + 64 * k + 4 * row, 4);
  });
}

}  // namespace

// Bytes of a packed [rows, columns] matrix. is_bf16: here and below, the weights; else they are fp32.
HR_API int64_t hr_dense_packed_bytes(int is_bf16, int64_t rows, int64_t columns) {
  return (rows + kBlockRows - 1) / kBlockRows * (is_bf16 ? dense_block_bytes<Bf16>(columns) : dense_block_bytes<float>(columns));
}

// raw: [rows, columns], contiguous. packed: hr_dense_packed_bytes() bytes, aligned to 64.
HR_API void hr_dense_pack_weights(int is_bf16, const void* raw, int64_t rows, int64_t columns, uint8_t* packed) {
  if (is_bf16)
    pack(static_cast<const Bf16*>(raw), rows, columns, packed);
  else
    pack(static_cast<const float*>(raw), rows, columns, packed);
}

HR_REPLAYABLE(hr_dense_pack_weights)

// out [num_ids, columns] = rows `ids` of the packed matrix, in its type; ids must lie within it.
HR_API void hr_dense_gather_rows(int is_bf16, const uint8_t* packed, int64_t columns, const int64_t* ids, int64_t num_ids,
                                 void* out) {
  if (is_bf16)
    gather(packed, columns, ids, num_ids, static_cast<Bf16*>(out));
  else
    gather(packed, columns, ids, num_ids, static_cast<float*>(out));
}

HR_REPLAYABLE(hr_dense_gather_rows)
