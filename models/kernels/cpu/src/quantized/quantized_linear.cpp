// Linear layers over packed integer weights: out [M, N] = input(x) [M, K] * W^T (+ bias) (+ residual).
//
// Activations are quantized to int8 with one scale per row and group of 32 columns, so that a group's product is an exact
// integer, and per group g of 32 columns (weights as in codecs.h, a = activation codes):
//
//   out[m, n] += scale_a[m, g] * scale_w[n, g] * sum_k (code[n, k] - offset) a[m, k]  +  minimum[n, g] * sum_a[m, g]
//
// A layer may be several matrices side by side (q, k and v; gate and up), each in a format of its own: `segments`.
//
// Few rows (M <= kFewRows): bound by memory. A thread takes row blocks of 16 outputs, streams each once, and multiplies
// kMostShared rows at a time with the unpacked registers. Activations are quantized by the caller alone while that is cheaper
// than a loop of its own.
//
// Many rows: bound by arithmetic. A panel of rows meets two row blocks, as integer_panel.h says.
//
// Many rows on AMX (M >= kAmxRows): quantized_amx.h.
//
// Rows may have adapters (low_rank.h). The call computes them on the way, as fused_adapters.h says; on AMX many rows' after it.
#include <algorithm>
#include <memory>
#include <vector>

#include "adapters/fused_adapters.h"
#include "linear/linear_kernels.h"
#include "linear/linear_layer.h"
#include "quantized/codecs.h"
#include "quantized/integer_panel.h"
#include "quantized/quantized_amx.h"
#include "quantized/shared_rows.h"
#include "runtime/parallel.h"
#include "runtime/replay.h"

using namespace hr;

namespace {

constexpr int kFewRows = 8 * kMostShared;  // up to here unpacking again for each kMostShared rows is cheaper than a panel
constexpr int64_t kRunSums = 256;  // of 16 outputs of a row: 16 KiB, which stay in the first-level cache
constexpr int64_t kQuantizeAlone = 2048;  // elements; up to here the caller is done before the others would have begun

int64_t padded_groups(int64_t columns) { return num_units(columns) * (kUnit / kGroup); }

// rounded: null, or where the prepared row goes in bf16, too
void quantize_row(const LinearLayer& layer, int64_t row, const IntegerRows& a, Bf16* rounded = nullptr) {
  thread_local std::vector<float> prepared;
  const int64_t columns = a.groups * kGroup;
  if (static_cast<int64_t>(prepared.size()) < columns) prepared.resize(columns);
  float* x = prepared.data();
  layer.prepare(row, x);
  if (rounded)
    for (int64_t k = 0; k < layer.columns; k += 16) store_bf16(rounded + k, load<F32x16>(x + k));
  std::fill(x + layer.columns, x + columns, 0.0f);
  a.put_scaled(row, x);
}

// ---- few rows

// rows [R]: that group of the rows.
template <class Codec, int R>
HR_INLINE void multiply_group(const Group& g, const IntegerGroup* rows, F32x16 (&out)[R]) {
  constexpr int kChains = Codec::kScales == 2 ? 2 : kSharedChains<R>;
  I32x16 sums[R][kChains];
  multiply_codes<Codec::kOffset>(g.codes, rows, sums);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const F32x16 scale = broadcast(rows[r].scale);
#pragma GCC unroll 2
    for (int s = 0; s < Codec::kScales; ++s) {  // in the order of multiply_tile(), so that a row's sums are the same
      const I32x16 sum = Codec::kScales == 1 && kChains == 2 ? sums[r][0] + sums[r][kChains - 1] : sums[r][s];
      out[r] = fma(to_float(sum) * scale, g.scale[s], out[r]);
      if constexpr (Codec::kHasMinimum)
        out[r] = fma(g.minimum[s], broadcast(rows[r].template sum_of<Codec::kScales>(s)), out[r]);
    }
  }
}

// rows: a tile of R.
template <class Codec, int R>
__attribute__((noinline)) void multiply_block(const uint8_t* block, const IntegerGroup* rows, int64_t groups, F32x16* results) {
  F32x16 out[R] = {};
  for (int64_t u = 0; u < groups / 2; ++u) {
    const uint8_t* header = header_address<Codec>(block, u);
    const uint8_t* unit = unit_address<Codec>(block, u);
    if (Codec::kHeaderBytes > 0 && u % kUnitsPerHeader == 0) prefetch_lines(header + kPrefetchBytes, Codec::kHeaderBytes);
    prefetch_lines(unit + kPrefetchBytes, Codec::kUnitBytes);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half, rows += R) multiply_group<Codec, R>(Codec::unpack(header, unit, half), rows, out);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) results[r] = out[r];
}

// sums = a tile of rows from `row` on times a row block of a segment. Returns how many rows these are, at most kMostShared; it
// may write one more.
int64_t multiply_few(const LinearLayer& layer, const IntegerRows& a, int64_t row, const hr_segment& segment, int64_t block,
                     F32x16* sums) {
  const int64_t count = std::min<int64_t>(kMostShared, layer.num_rows - row);
  with_codec(static_cast<Format>(segment.format), [&](auto codec) {
    using Codec = decltype(codec);
    const uint8_t* packed = segment.packed + block * block_bytes<Codec>(layer.columns);
    with_shared_rows(count, [&](auto shared) { multiply_block<Codec, shared>(packed, a.tile(row), a.groups, sums); });
  });
  return count;
}

void few_rows_block(const LinearLayer& layer, const IntegerRows& a, int64_t index) {
  const BlockPlace place = place_block(layer.segments, index);
  F32x16 sums[kMostShared];
  for (int64_t row = 0; row < layer.num_rows; row += kMostShared) {  // from the second time on, the block is in the cache
    const int64_t count = multiply_few(layer, a, row, *place.segment, place.block, sums);
    for (int r = 0; r < count; ++r) layer.out.put(row + r, place.column, place.outputs, sums[r], place.bias);
  }
}

// ---- many rows

// Row blocks of one matrix, as multiply_panel() wants them.
template <class Codec>
struct PanelWeights {
  const uint8_t* first;
  int64_t stride, groups;

  HR_INLINE void expand(int c, int64_t group, int i, Expanded& out) const {
    const uint8_t* block = first + c * stride;
    const Group g = Codec::unpack(header_address<Codec>(block, group / 2), unit_address<Codec>(block, group / 2), group % 2);
    for (int v = 0; v < kVectors; ++v) store(out.codes[i][v], g.codes[v]);
    for (int s = 0; s < Codec::kScales; ++s) {
      store(out.scale[i][s], g.scale[s]);
      if constexpr (Codec::kHasMinimum) store(out.minimum[i][s], g.minimum[s]);
    }
  }
  HR_INLINE void prefetch(int c, int64_t group) const {
    const int64_t bytes = Codec::kUnitBytes / 2;
    prefetch_lines(unit_address<Codec>(first + c * stride, 0) + group * bytes, bytes);
  }
};

void panel_task(const LinearLayer& layer, const IntegerRows& a, const BlockPlace& place, int64_t first_row, int num_rows,
                PanelMemory& memory) {
  with_codec(static_cast<Format>(place.segment->format), [&](auto codec) {
    using Codec = decltype(codec);
    const int64_t stride = block_bytes<Codec>(layer.columns);
    const PanelWeights<Codec> weights{place.segment->packed + place.block * stride, stride, a.groups};
    multiply_panel<Codec::kScales, Codec::kHasMinimum, Codec::kOffset>(weights, (place.outputs + kBlockRows - 1) / kBlockRows, a,
                                                                       first_row, num_rows, 1, memory);
  });
}

// Blocks that a thread takes at a time.
int64_t chunk_blocks(const LinearLayer& layer, int64_t num_blocks) {
  int64_t bytes = 0;
  for (int s = 0; s < layer.num_segments; ++s)
    with_codec(static_cast<Format>(layer.segments[s].format), [&](auto codec) {
      bytes += num_row_blocks(layer.segments[s]) * block_bytes<decltype(codec)>(layer.columns);
    });
  return streamed_blocks(bytes / num_blocks, num_blocks, num_threads());
}

// Row blocks first .. end - 1, with the adapters of the rows: in runs, and a run's outputs after all of its sums, so that the
// adapters' own tasks are done by then. Memory for outputs is asked for earlier, since nothing is computed beside the stores.
void few_rows_chunk(const LinearLayer& layer, const IntegerRows& a, int64_t first, int64_t end, const FusedAdapters& adapters) {
  for_each_run(layer.segments, first, end, [&](const BlockPlace& run) { adapters.prefetch(run.column, run.outputs); });
  F32x16 sums[kRunSums];
  static_assert(kRunSums >= kFewRows);
  const int64_t rows = a.last_tile * kMostShared + a.last_rows, most = kRunSums / rows;
  for (; first < end; first += most)
    for_each_run(layer.segments, first, std::min(first + most, end), [&](const BlockPlace& run) {
      for (int64_t i = 0; i * kBlockRows < run.outputs; ++i)
        for (int64_t row = 0; row < layer.num_rows; row += kMostShared) {
          const int64_t count = multiply_few(layer, a, row, *run.segment, run.block + i, sums + i * rows + row);
          if (layer.num_rows > kMostShared)  // with fewer rows it takes longer to ask than to wait
            for (int64_t r = row; r < row + count; ++r) layer.out.prefetch(r, run.column + i * kBlockRows);
        }
      const OutputSums all{reinterpret_cast<const float*>(sums), kBlockRows, rows * kBlockRows, 0,
                           run.column, run.outputs, run.bias};
      if (!adapters.has_all()) adapters.put_others(all, layer.num_rows);
      adapters.put_few(all);
    });
}

// adapters: null, or those of the rows
void few_rows(const LinearLayer& layer, FusedAdapters* adapters) {
  const int64_t num_blocks = num_places(layer.segments, layer.num_segments, 1), chunk = chunk_blocks(layer, num_blocks);
  thread_local IntegerRowMemory memory;
  const IntegerRows a =
      memory.reserve(layer.num_rows, padded_groups(layer.columns), kMostShared, last_shared_rows(layer.num_rows));
  if (adapters) adapters->plan_few();
  parallel_for(layer.num_rows, std::max<int64_t>(1, kQuantizeAlone / layer.columns), [&](int64_t r) {
    quantize_row(layer, r, a, adapters ? adapters->prepared(r) : nullptr);
  });
  if (!adapters) return parallel_for(num_blocks, chunk, [&](int64_t i) { few_rows_block(layer, a, i); });
  const int64_t num_tasks = adapters->num_tasks();
  parallel_for(num_tasks + (num_blocks + chunk - 1) / chunk, [&](int64_t task) {
    if (task < num_tasks) return adapters->run(task);
    const int64_t first = (task - num_tasks) * chunk;
    few_rows_chunk(layer, a, first, std::min(first + chunk, num_blocks), *adapters);
  });
}

void many_rows(const LinearLayer& layer, FusedAdapters* adapters) {
  thread_local IntegerRowMemory memory;
  const IntegerRows a = memory.reserve(layer.num_rows, padded_groups(layer.columns), kTileRows, kTileRows);
  if (adapters) {
    adapters->plan_many();
    parallel_for((layer.num_rows + kShrinkRows - 1) / kShrinkRows, [&](int64_t task) {
      adapters->shrink_rows_of(task * kShrinkRows, std::min(layer.num_rows, (task + 1) * kShrinkRows),
                               [&](int64_t r, Bf16* rounded) { quantize_row(layer, r, a, rounded); });
    });
  } else {
    parallel_for(layer.num_rows, 4, [&](int64_t r) { quantize_row(layer, r, a); });
  }
  for_each_panel(layer.segments, layer.num_segments, layer.num_rows,
                 [&](const BlockPlace& place, int64_t first_row, int num_rows, PanelMemory& panel) {
                   panel_task(layer, a, place, first_row, num_rows, panel);
                   if (!adapters) return put_panel(layer, place, first_row, num_rows, panel.sums);
                   const OutputSums sums{panel.sums[0],  2 * kBlockRows, kBlockRows, first_row,
                                         place.column, place.outputs,  place.bias};
                   if (!adapters->has_all()) adapters->put_others(sums, first_row + num_rows);
                   adapters->put_many(sums, first_row + num_rows);
                 });
}

void compute(const LinearLayer& layer, FusedAdapters* adapters) {
  if (layer.num_rows <= kFewRows)
    few_rows(layer, adapters);
  else
    many_rows(layer, adapters);
}

}  // namespace

// Over packed integer matrices. K is a multiple of 32.
HR_API void hr_quantized_linear(HR_LINEAR_PARAMETERS) {
  const LinearLayer layer = linear_layer(HR_LINEAR_ARGUMENTS);
  if (num_rows == 0) return;
#if HR_AMX
  if (num_rows >= kAmxRows && allows_amx) return many_rows_amx(layer);
#endif
  compute(layer, nullptr);
}

HR_REPLAYABLE(hr_quantized_linear)

// The same with the adapters of the rows (low_rank.h): faster than hr_adapt_rows() afterwards, and rounded once. A residual is
// added last. On AMX it is the two calls for many rows, since weights are not what takes the time there. They scale a residual,
// too, so it must be 0 in the rows of an adapter that scales outputs.
HR_API void hr_quantized_linear_adapted(HR_LINEAR_PARAMETERS, const hr_layer_adapter* table, const int32_t* slots) {
#if HR_AMX
  if (num_rows >= kAmxRows && allows_amx) {
    hr_quantized_linear(HR_LINEAR_ARGUMENTS);
    return hr_adapt_rows(HR_INPUT_ARGUMENTS, table, slots, out, out_is_bf16, out_stride);
  }
#endif
  thread_local RowGroups groups;
  groups.find(table, slots, num_rows);
  if (groups.groups.empty()) return hr_quantized_linear(HR_LINEAR_ARGUMENTS);
  const LinearLayer layer = linear_layer(HR_LINEAR_ARGUMENTS);
  FusedAdapters& adapters = thread_scratch<FusedAdapters>();
  adapters.begin(groups, layer.out, columns);
  compute(layer, &adapters);
}

HR_REPLAYABLE(hr_quantized_linear_adapted)
