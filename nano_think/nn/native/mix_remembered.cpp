// One row of logits with what a memory holds mixed in.
//
// V words, k neighbours; everything is fp32. One call in the place of some twenty small ones, each of which would be
// cold in the cache behind a model's weights.

#include <cmath>
#include <limits>

#include "vectors.h"

namespace {

// ln sum exp of a row.
float log_sum_exp(const float* row, int64_t words) {
  Vec top = splat(-std::numeric_limits<float>::infinity()), sum{};
  each_vector(words, [&](int64_t i, int64_t lanes) {
    Vec x = load(row + i, lanes);
    for (int64_t lane = lanes; lane < LANES; ++lane) x[lane] = row[i];
    top = x > top ? x : top;
  });
  float largest = top[0];
  for (int64_t lane = 1; lane < LANES; ++lane) largest = std::max(largest, top[lane]);
  each_vector(words, [&](int64_t i, int64_t lanes) {
    Vec x = exp2((load(row + i, lanes) - largest) * LOG2E);
    for (int64_t lane = lanes; lane < LANES; ++lane) x[lane] = 0.0f;
    sum += x;
  });
  return largest + std::log(total(sum));
}

double log_add_exp(double a, double b) {
  const double high = std::max(a, b), low = std::min(a, b);
  return std::isinf(high) ? high : high + std::log1p(std::exp(low - high));
}

Tensor mix_remembered(const Tensor& logits, const Tensor& similarity, const Tensor& value, const Tensor& weight,
                      double share, double sharpness) {
  const int64_t words = logits.numel(), count = value.numel();
  const float *row = values(logits, {words}), *similar = values(similarity, {1, count}), *weights = values(weight, {1, count});
  STD_TORCH_CHECK(value.is_contiguous(), "wanted contiguous values");
  const int64_t* words_of = value.const_data_ptr<int64_t>();
  double highest = -std::numeric_limits<double>::infinity(), whole = 0;
  for (int64_t j = 0; j < count; ++j) {
    STD_TORCH_CHECK(words_of[j] < words, "value ", words_of[j], " is none of ", words, " words");
    if (words_of[j] >= 0) highest = std::max(highest, double(similar[j]));
  }
  auto counts = [&](int64_t j) { return words_of[j] < 0 ? 0.0 : weights[j] * std::exp(sharpness * (similar[j] - highest)); };
  for (int64_t j = 0; j < count; ++j) whole += counts(j);
  Tensor mixed = make(logits, {words});
  float* to = mixed.mutable_data_ptr<float>();
  std::memcpy(to, row, words * sizeof(float));
  if (!(whole > 0)) return mixed;
  const float less = std::log1p(-share);
  for (int64_t i = 0; i < words; ++i) to[i] += less;
  const double model = log_sum_exp(row, words);
  for (int64_t j = 0; j < count; ++j) {
    bool first = words_of[j] >= 0;
    for (int64_t i = 0; i < j; ++i) first = first && words_of[i] != words_of[j];
    if (!first) continue;
    double sum = 0;
    for (int64_t i = j; i < count; ++i) sum += words_of[i] == words_of[j] ? counts(i) : 0.0;
    to[words_of[j]] = log_add_exp(to[words_of[j]], std::log(share * sum / whole) + model);
  }
  return mixed;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nano_think, m) {
  m.def(
      "mix_remembered(Tensor logits, Tensor similarity, Tensor value, Tensor weight, float share, float sharpness) -> "
      "Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(nano_think, CPU, m) { m.impl("mix_remembered", TORCH_BOX(&mix_remembered)); }
