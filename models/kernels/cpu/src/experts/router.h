// The router of a mixture of experts: which experts a row goes to, and how much each counts.
//
// Per row: logits = W x (+ b); scores by softmax or sigmoid; the best `chosen` by score + correction, among the experts of the
// best groups where there are groups; their scores as weights, renormalized or not, times a factor. With SparseMixer the best
// logits in turn, each with a softmax over the logits left that are near it as its weight. A weight may have a factor of its expert's own. All in fp32: a choice between two
// near experts must not depend on rounding.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "runtime/parallel.h"
#include "simd/simd.h"

struct hr_router {
  const float *weight, *bias, *correction;  // [E, K], null or [E], null or [E]
  const float* shared_gate;                 // null, or [K]: the shared expert's output times sigmoid(gate . row)
  const float* expert_scale;                // null, or [E]: factors of the experts' weights
  int64_t columns;                          // K, a multiple of 16
  int32_t num_experts, chosen;
  int32_t score;  // 0: softmax, 1: sigmoid, 2: SparseMixer
  int32_t renormalizes;
  int32_t num_groups, groups_chosen;
  int32_t group_best_two;  // a group is rated by the sum of its two best, else by its best
  float scale;
  float sum_floor;  // of the sum by which weights are divided
  float jitter;     // of SparseMixer
};

namespace hr {

constexpr int64_t kLogitsAlone = 32 << 10;  // multiplications that are not worth a second thread
constexpr int kLogitExperts = 8;            // experts of a task

inline float dot(const float* a, const float* b, int64_t size) {
  F32x16 sums[2] = {};
  int64_t k = 0;
  for (; k + 32 <= size; k += 32)
    for (int c = 0; c < 2; ++c) sums[c] = fma(load<F32x16>(a + k + 16 * c), load<F32x16>(b + k + 16 * c), sums[c]);
  for (; k < size; k += 16) sums[0] = fma(load<F32x16>(a + k), load<F32x16>(b + k), sums[0]);
  return sum_lanes(sums[0] + sums[1]);
}

inline void score(const hr_router& router, float* scores) {
  float total = 0;
  const float largest = *std::max_element(scores, scores + router.num_experts);
  for (int e = 0; e < router.num_experts; ++e) {
    scores[e] = router.score == 1 ? 1 / (1 + std::exp(-scores[e])) : std::exp(scores[e] - largest);
    total += scores[e];
  }
  if (router.score != 1)
    for (int e = 0; e < router.num_experts; ++e) scores[e] /= total;
}

// Below any expert's score, above -inf for those that were chosen: a row of NaN must get as many experts as others.
constexpr float kWorst = std::numeric_limits<float>::lowest();

// rated [E]: experts outside the best groups become kWorst
inline void keep_best_groups(const hr_router& router, float* rated) {
  const int size = router.num_experts / router.num_groups;
  thread_local std::vector<std::pair<float, int>> groups;
  groups.resize(router.num_groups);
  for (int g = 0; g < router.num_groups; ++g) {
    float best = -INFINITY, second = -INFINITY;
    for (int e = g * size; e < (g + 1) * size; ++e) {
      second = std::max(second, std::min(best, rated[e]));
      best = std::max(best, rated[e]);
    }
    groups[g] = {router.group_best_two ? best + second : best, g};
  }
  std::partial_sort(groups.begin(), groups.begin() + router.groups_chosen, groups.end(), std::greater<>());
  for (auto group = groups.begin() + router.groups_chosen; group != groups.end(); ++group)
    std::fill_n(rated + group->second * size, size, kWorst);
}

// The same with SparseMixer: a logit is near the best one left if it is below it by at most 2 jitter of max(|logit|, best).
inline void choose_in_turn(const hr_router& router, float* logits, int32_t* experts, float* weights) {
  for (int e = 0; e < router.num_experts; ++e)
    if (std::isnan(logits[e])) logits[e] = kWorst;
  for (int j = 0; j < router.chosen; ++j) {
    const int best = static_cast<int>(std::max_element(logits, logits + router.num_experts) - logits);
    float total = 0;
    for (int e = 0; e < router.num_experts; ++e) {
      const float below = logits[best] - logits[e], larger = std::max(std::abs(logits[e]), logits[best]);
      if (logits[e] > -INFINITY && !(below / larger > 2 * router.jitter)) total += std::exp(-below);
    }
    experts[j] = best;
    weights[j] = 1 / total;
    logits[best] = -INFINITY;
  }
}

// By softmax or sigmoid.
inline void choose_by_score(const hr_router& router, float* scores, int32_t* experts, float* weights) {
  thread_local std::vector<float> rated;
  score(router, scores);
  rated.resize(router.num_experts);
  for (int e = 0; e < router.num_experts; ++e) {
    const float rating = scores[e] + (router.correction ? router.correction[e] : 0.0f);
    rated[e] = std::isnan(rating) ? kWorst : rating;
  }
  if (router.num_groups > 1) keep_best_groups(router, rated.data());
  float total = 0;
  for (int j = 0; j < router.chosen; ++j) {
    const int best = static_cast<int>(std::max_element(rated.begin(), rated.end()) - rated.begin());
    experts[j] = best;
    weights[j] = scores[best];
    total += scores[best];
    rated[best] = -INFINITY;
  }
  const float factor = router.scale / (router.renormalizes ? std::max(total, router.sum_floor) : 1.0f);
  for (int j = 0; j < router.chosen; ++j) weights[j] *= factor;
}

// The row's experts and weights [chosen], from its logits, which are overwritten.
inline void choose(const hr_router& router, float* scores, int32_t* experts, float* weights) {
  if (router.score == 2)
    choose_in_turn(router, scores, experts, weights);
  else
    choose_by_score(router, scores, experts, weights);
  if (router.expert_scale)
    for (int j = 0; j < router.chosen; ++j) weights[j] *= router.expert_scale[experts[j]];
}

struct Routing {
  std::vector<float> logits, weights, gates;  // [M, E], [M, chosen], [M]
  std::vector<int32_t> experts;                  // [M, chosen]

  void reserve(const hr_router& router, int64_t rows) {
    const size_t pairs = rows * router.chosen;
    if (logits.size() < static_cast<size_t>(rows * router.num_experts)) logits.resize(rows * router.num_experts);
    if (weights.size() < pairs) weights.resize(pairs), experts.resize(pairs);
    if (gates.size() < static_cast<size_t>(rows)) gates.resize(rows);
  }
};

inline void route(const hr_router& router, const float* rows, int64_t num_rows, Routing& to) {
  to.reserve(router, num_rows);
  const int64_t num_parts = (router.num_experts + kLogitExperts - 1) / kLogitExperts;
  const int64_t grain = std::max<int64_t>(1, kLogitsAlone / (kLogitExperts * router.columns));
  parallel_for(num_rows * num_parts, grain, [&](int64_t task) {
    const int64_t row = task / num_parts, first = task % num_parts * kLogitExperts;
    const float* x = rows + row * router.columns;
    for (int64_t e = first; e < std::min<int64_t>(first + kLogitExperts, router.num_experts); ++e) {
      const float bias = router.bias ? router.bias[e] : 0.0f;
      to.logits[row * router.num_experts + e] = dot(x, router.weight + e * router.columns, router.columns) + bias;
    }
  });
  parallel_for(num_rows, std::max<int64_t>(1, 4096 / router.num_experts), [&](int64_t row) {
    choose(router, &to.logits[row * router.num_experts], &to.experts[row * router.chosen], &to.weights[row * router.chosen]);
    if (router.shared_gate)
      to.gates[row] = 1 / (1 + std::exp(-dot(rows + row * router.columns, router.shared_gate, router.columns)));
  });
}

}  // namespace hr
