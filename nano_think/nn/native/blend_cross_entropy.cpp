// The cross-entropy of a weighted sum of K rows of logits, and its slope in the K weights.
//
// S rows, K parts of each, V words. The parts are fp32 or bf16 in memory, all arithmetic is fp32. They are read from
// memory once and from the cache once more; the sum itself never leaves the cache.

#include <cmath>
#include <limits>

#include "vectors.h"

namespace {

// A row's K parts, the share that each has, and what is added to their sum.
template <class T>
struct Parts {
  const T* row;
  const float* share;
  const float* bias;
  int64_t count, words;

  // The sum of the parts at LANES words from i on; words that there are none of cannot come.
  Vec at(int64_t i, int64_t lanes) const {
    Vec x = load(bias + i, lanes);
    for (int64_t k = 0; k < count; ++k) x += share[k] * load(row + k * words + i, lanes);
    for (int64_t lane = lanes; lane < LANES; ++lane) x[lane] = -std::numeric_limits<float>::infinity();
    return x;
  }
};

// The loss of one row; `slope` gets E_p[part k] - part k at the target. `room` holds a vector for each LANES words.
template <class T>
float cross_entropy(const Parts<T>& parts, int64_t target, Vec* room, float* slope) {
  Vec top = splat(-std::numeric_limits<float>::infinity()), sum{};
  each_vector(parts.words, [&](int64_t i, int64_t lanes) {
    const Vec x = room[i / LANES] = parts.at(i, lanes);
    top = x > top ? x : top;
  });
  float largest = top[0];
  for (int64_t lane = 1; lane < LANES; ++lane) largest = std::max(largest, top[lane]);
  const float wanted = room[target / LANES][target % LANES];
  each_vector(parts.words, [&](int64_t i, int64_t) {
    room[i / LANES] = exp2((room[i / LANES] - largest) * LOG2E);
    sum += room[i / LANES];
  });
  const float whole = total(sum);
  for (int64_t k = 0; k < parts.count; ++k) {
    const T* part = parts.row + k * parts.words;
    Vec mean{};
    each_vector(parts.words, [&](int64_t i, int64_t lanes) { mean += room[i / LANES] * load(part + i, lanes); });
    slope[k] = total(mean) / whole - load(part + target, 1)[0];
  }
  return std::log(whole) + (largest - wanted);
}

std::tuple<Tensor, Tensor> blend_cross_entropy(const Tensor& logits, const Tensor& share, const Tensor& bias,
                                               const Tensor& target) {
  const int64_t rows = target.numel(), words = bias.numel();
  STD_TORCH_CHECK(logits.is_contiguous() && logits.dim() == 3 && logits.sizes()[0] == rows && logits.sizes()[2] == words,
                  "wanted contiguous logits (", rows, ", K, ", words, ")");
  STD_TORCH_CHECK(target.is_contiguous(), "wanted contiguous targets");
  const int64_t K = logits.sizes()[1];
  const float *shares = values(share, {rows, K}), *add = values(bias, {words});
  const int64_t* targets = target.const_data_ptr<int64_t>();
  for (int64_t s = 0; s < rows; ++s)
    STD_TORCH_CHECK(0 <= targets[s] && targets[s] < words, "target ", targets[s], " is none of ", words, " words");
  Tensor loss = make(logits, {rows}), slope = make(logits, {rows, K});
  float *losses = loss.mutable_data_ptr<float>(), *slopes = slope.mutable_data_ptr<float>();
  in_precision_of(logits, [&](auto number) {
    using T = decltype(number);
    const T* data = static_cast<const T*>(logits.const_data_ptr());
    torch::stable::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
      const Buffer room((words + LANES - 1) / LANES);
      for (int64_t s = begin; s < end; ++s) {
        const Parts<T> parts{data + s * K * words, shares + s * K, add, K, words};
        losses[s] = cross_entropy(parts, targets[s], room, slopes + s * K);
      }
    });
  });
  return {loss, slope};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nano_think, m) {
  m.def("blend_cross_entropy(Tensor logits, Tensor share, Tensor bias, Tensor target) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(nano_think, CPU, m) { m.impl("blend_cross_entropy", TORCH_BOX(&blend_cross_entropy)); }
