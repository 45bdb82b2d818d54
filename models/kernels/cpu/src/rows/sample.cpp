// Choosing tokens from rows of logits [L, V] fp32: the largest, or one drawn at a temperature within top-k, top-p and min-p;
// sums and largest logits for log probabilities; and masks of the tokens that a grammar allows.
//
// A draw reads its row twice. The first pass finds the largest x = logit / temperature; the second sums exp(x - largest), and
// collects the candidates near it: kReaches says how near, and only if these turn out to be too few is the row read again.
// Sorted by value, the candidates give the smallest value that the limits keep, and the draw is by inversion over the kept ones in
// order of id. So a result depends on the row alone, ties stay or go together, and no vocabulary is sorted.
//
// Without limits the second pass stores the sums of runs of kRun numbers, and the draw reads only the run that it falls into.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "runtime/parallel.h"
#include "simd/simd.h"

using namespace hr;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLog2e = 1.44269504088896341f;
constexpr int64_t kRun = 1024;
constexpr int64_t kMaskBlock = 1024;  // words of a mask that one thread takes at a time
constexpr float kReaches[] = {8.0f, 16.0f, kInfinity};  // below the largest; e^-8 is a third of a thousandth of it

// A row's limits, as Python passes them.
struct Draw {
  double temperature, top_k, top_p, min_p, uniform;  // top_k 0, top_p 1 and min_p 0 are off
  bool is_limited() const { return top_k > 0 || top_p < 1 || min_p > 0; }
};

struct Best {
  float value;  // NaN if any is
  int64_t id;
};

// The largest of x [count] and the first place that has it.
Best best_of(const float* x, int64_t count) {
  Best best{-kInfinity, 0};
  for (int64_t begin = 0; begin < count; begin += kRun) {
    const int64_t end = std::min(count, begin + kRun), whole = begin + (end - begin) / 16 * 16;
    F32x16 largest = broadcast(-kInfinity), nans = broadcast(0.0f);
    for (int64_t i = begin; i < whole; i += 16) {
      const F32x16 v = load<F32x16>(x + i);
      largest = max(largest, v);
      HR_EACH(nans.r[i] = v.r[i] != v.r[i] ? v.r[i] : nans.r[i])
    }
    float run = max_lanes(largest);
    if (const float sum = sum_lanes(nans); sum != sum) return {sum, 0};
    for (int64_t i = whole; i < end; ++i) {
      if (x[i] != x[i]) return {x[i], 0};
      run = std::max(run, x[i]);
    }
    if (run > best.value) {
      int64_t id = begin;
      while (x[id] != run) ++id;
      best = {run, id};
    }
  }
  return best;
}

// The sum of exp(x * scale - largest), for x [count].
double exp_sum(const float* x, int64_t count, float scale, float largest) {
  const F32x16 factor = broadcast(scale * kLog2e), shift = broadcast(largest * kLog2e);
  F32x16 sum = broadcast(0.0f);
  const int64_t whole = count / 16 * 16;
  for (int64_t i = 0; i < whole; i += 16) sum = sum + exp2(load<F32x16>(x + i) * factor - shift);
  double total = sum_lanes(sum);
  for (int64_t i = whole; i < count; ++i) total += std::exp(x[i] * scale - largest);
  return total;
}

// The place in [first, end) on which `target` falls, with weights exp(x * scale - largest); the last one with weight if none.
int64_t draw_by_inversion(const float* x, int64_t first, int64_t end, float scale, float largest, double target) {
  double sum = 0;
  int64_t last = first;
  for (int64_t i = first; i < end; ++i) {
    const double weight = std::exp(x[i] * scale - largest);
    if (weight > 0) last = i;
    sum += weight;
    if (sum > target) return i;
  }
  return last;
}

int64_t draw_from_all(const float* x, int64_t count, float scale, float largest, double uniform) {
  thread_local std::vector<double> runs;
  runs.clear();
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kRun) {
    runs.push_back(exp_sum(x + begin, std::min(kRun, count - begin), scale, largest));
    total += runs.back();
  }
  double target = uniform * total;
  int64_t run = 0, last = 0;
  for (; run < static_cast<int64_t>(runs.size()); ++run) {
    if (runs[run] > 0) last = run;
    if (target < runs[run]) break;
    target -= runs[run];
  }
  if (run == static_cast<int64_t>(runs.size())) run = last;  // rounding took the target to the end
  return draw_by_inversion(x, run * kRun, std::min(count, (run + 1) * kRun), scale, largest, target);
}

struct Candidate {
  float value;  // x, over the temperature
  int64_t id;
  double weight;
};

// Those of x [count] that are at most `reach` below the largest, in order of id; returns the sum of all weights.
double collect(const float* x, int64_t count, float scale, float largest, float reach, std::vector<Candidate>& found) {
  found.clear();
  double total = 0;
  const float least = largest - reach;
  for (int64_t begin = 0; begin < count; begin += kRun) {
    const int64_t end = std::min(count, begin + kRun);
    total += exp_sum(x + begin, end - begin, scale, largest);
    for (int64_t i = begin; i < end; i += 16) {
      if (i + 16 <= end && !(max_lanes(load<F32x16>(x + i)) * scale >= least)) continue;
      for (int64_t j = i; j < std::min(end, i + 16); ++j)
        if (const float v = x[j] * scale; v >= least) found.push_back({v, j, std::exp(static_cast<double>(v) - largest)});
    }
  }
  return total;
}

// The smallest value that is kept of `sorted` (descending), or NaN if more than these may be kept.
// total: the weights of the whole row.
float smallest_kept(const Draw& draw, const std::vector<Candidate>& sorted, double total, bool is_whole_row) {
  const int64_t count = static_cast<int64_t>(sorted.size()), top_k = static_cast<int64_t>(draw.top_k);
  float kth = -kInfinity;  // by value, so that ties at rank k stay
  if (top_k > 0 && top_k <= count) kth = sorted[top_k - 1].value;
  if (top_k > 0) {
    if (top_k > count && !is_whole_row) return NAN;
    total = 0;
    for (const Candidate& c : sorted)
      if (c.value >= kth) total += c.weight;
  }
  double before = 0;
  int64_t kept = 0;
  for (; kept < count; ++kept) {
    const Candidate& c = sorted[kept];
    const bool is_kept = c.value >= kth && (draw.top_p >= 1 || before < draw.top_p * total) && c.weight >= draw.min_p * sorted[0].weight;
    if (kept > 0 && !is_kept) break;
    before += c.weight;
  }
  if (kept == count && !is_whole_row) return NAN;
  return sorted[kept - 1].value;
}

int64_t draw_within(const Draw& draw, const float* x, int64_t count, float scale, float largest) {
  thread_local std::vector<Candidate> found, sorted;
  for (const float reach : kReaches) {
    const double total = collect(x, count, scale, largest, reach, found);
    sorted = found;
    std::sort(sorted.begin(), sorted.end(), [](const Candidate& a, const Candidate& b) { return a.value > b.value; });
    const float least = smallest_kept(draw, sorted, total, reach == kInfinity);
    if (least != least) continue;
    double kept = 0;
    for (const Candidate& c : found)
      if (c.value >= least) kept += c.weight;
    double sum = 0;
    int64_t id = 0;
    for (const Candidate& c : found) {
      if (c.value < least) continue;
      id = c.id;
      sum += c.weight;
      if (sum > draw.uniform * kept) break;
    }
    return id;
  }
  return 0;  // not reached: the last reach is the whole row
}

// A whole word has a loop of constant length, which compilers turn into a few vector instructions.
inline void mask_word(float* x, int64_t width, uint32_t bits) {
  if (width == 32) {
    for (uint32_t j = 0; j < 32; ++j) x[j] = bits & 1u << j ? x[j] : -kInfinity;
  } else {
    for (int64_t j = 0; j < width; ++j) x[j] = bits >> j & 1 ? x[j] : -kInfinity;
  }
}

}  // namespace

// ids [L] = the first place of each row's largest logit; values [L] = that logit, or NaN where any of the row is NaN.
HR_API void hr_best_ids(const float* logits, int64_t stride, int64_t num_rows, int64_t count, int64_t* ids, float* values) {
  parallel_for(num_rows, 1, [&](int64_t row) {
    const Best best = best_of(logits + row * stride, count);
    ids[row] = best.id;
    values[row] = best.value;
  });
}

// sums [L] = the logarithm of the sum of exp(logit) of each row, or its largest logit if that is not finite.
HR_API void hr_log_sums(const float* logits, int64_t stride, int64_t num_rows, int64_t count, float* sums) {
  parallel_for(num_rows, 1, [&](int64_t row) {
    const float* x = logits + row * stride;
    const float largest = best_of(x, count).value;
    double total = 0;
    for (int64_t begin = 0; begin < count; begin += kRun) total += exp_sum(x + begin, std::min(kRun, count - begin), 1, largest);
    sums[row] = std::isfinite(largest) ? static_cast<float>(largest + std::log(total)) : largest;
  });
}

// ids [L, top], values [L, top] = each row's largest logits, the largest first; of equal ones the first. 1 <= top <= count.
HR_API void hr_top_ids(const float* logits, int64_t stride, int64_t num_rows, int64_t count, int64_t top, int64_t* ids,
                       float* values) {
  parallel_for(num_rows, 1, [&](int64_t row) {
    const float* x = logits + row * stride;
    thread_local std::vector<Best> found;  // a heap, with the last one in front
    const auto comes_before = [](const Best& a, const Best& b) { return a.value > b.value || (a.value == b.value && a.id < b.id); };
    found.clear();
    for (int64_t i = 0; i < count; i += 16) {
      const bool is_full = static_cast<int64_t>(found.size()) == top;
      if (is_full && i + 16 <= count && !(max_lanes(load<F32x16>(x + i)) > found[0].value)) continue;
      for (int64_t j = i; j < std::min(count, i + 16); ++j) {
        if (static_cast<int64_t>(found.size()) == top) {
          if (!(x[j] > found[0].value)) continue;
          std::pop_heap(found.begin(), found.end(), comes_before);
          found.pop_back();
        }
        found.push_back({x[j], j});
        std::push_heap(found.begin(), found.end(), comes_before);
      }
    }
    std::sort_heap(found.begin(), found.end(), comes_before);
    for (int64_t i = 0; i < top; ++i) {
      ids[row * top + i] = found[i].id;
      values[row * top + i] = found[i].value;
    }
  });
}

// probs [L] = the probability of each row's largest logit, which is in values [L] and finite.
HR_API void hr_top1_probs(const float* logits, int64_t stride, int64_t num_rows, int64_t count, const float* values,
                          float* probs) {
  parallel_for(num_rows, 1, [&](int64_t row) {
    probs[row] = static_cast<float>(1 / exp_sum(logits + row * stride, count, 1, values[row]));
  });
}

// ids [L] = drawn from each row. draws [L]: its limits, and its number in [0, 1). The largest logit of a row is finite.
HR_API void hr_draw_ids(const float* logits, int64_t stride, int64_t num_rows, int64_t count, const Draw* draws, int64_t* ids) {
  parallel_for(num_rows, 1, [&](int64_t row) {
    const float* x = logits + row * stride;
    const Draw& draw = draws[row];
    const float scale = static_cast<float>(1 / draw.temperature), largest = best_of(x, count).value * scale;
    ids[row] = draw.is_limited() ? draw_within(draw, x, count, scale, largest) : draw_from_all(x, count, scale, largest, draw.uniform);
  });
}

// logits[rows[i], j] = -infinity wherever bit j of masks[i] is 0: masks [num_rows, num_words], 32 columns a word, lowest bit first.
HR_API void hr_mask_rows(float* logits, int64_t stride, int64_t count, const int64_t* rows, int64_t num_rows,
                         const uint32_t* masks, int64_t num_words) {
  const int64_t num_blocks = (num_words + kMaskBlock - 1) / kMaskBlock;
  parallel_for(num_rows * num_blocks, 1, [&](int64_t index) {
    const int64_t row = index / num_blocks, begin = index % num_blocks * kMaskBlock;
    float* x = logits + rows[row] * stride;
    const uint32_t* mask = masks + row * num_words;
    for (int64_t word = begin; word < std::min(num_words, begin + kMaskBlock); ++word) {
      const uint32_t bits = mask[word];
      if (bits != ~0u) mask_word(x + word * 32, std::min<int64_t>(32, count - word * 32), bits);
    }
  });
}
