// The cross-entropy of rows of logits, and its gradient in their place.
//
// S rows, V words. Numbers are fp32 or bf16 in memory and fp32 in all arithmetic; a row stays in the cache while it is
// read three times.

#include <cmath>
#include <limits>

#include "vectors.h"

namespace {

// A row of logits and what is added to it, in vectors.
template <class T>
struct Logits {
  const T* row;
  const float* bias;
  int64_t words;

  int64_t whole() const { return words / LANES * LANES; }
  Vec at(int64_t i) const { return load(row + i, LANES) + load(bias + i, LANES); }
  // What is left behind the whole vectors, and `other` in the lanes behind that.
  Vec rest(float other) const {
    const int64_t first = whole(), count = words - first;
    Vec x = splat(other);
    for (int64_t i = 0; i < count; ++i) x[i] = one(first + i);
    return x;
  }
  float one(int64_t i) const { return load(row + i, 1)[0] + bias[i]; }

  float largest() const {
    constexpr int CHAINS = 4;
    Vec top[CHAINS];
    for (Vec& x : top) x = splat(-std::numeric_limits<float>::infinity());
    int64_t i = 0;
    for (; i + CHAINS * LANES <= words; i += CHAINS * LANES)
#pragma GCC unroll 4
      for (int c = 0; c < CHAINS; ++c) {
        const Vec x = at(i + c * LANES);
        top[c] = x > top[c] ? x : top[c];
      }
    for (; i < whole(); i += LANES) top[0] = at(i) > top[0] ? at(i) : top[0];
    const Vec x = rest(top[0][0]);
    top[0] = x > top[0] ? x : top[0];
    float found = top[0][0];
    for (const Vec& vector : top)
      for (int64_t lane = 0; lane < LANES; ++lane) found = std::max(found, vector[lane]);
    return found;
  }
};

inline Vec powers(Vec x, float top) { return exp2((x - top) * LOG2E); }

// The loss of one row; with `errors`, softmax - one-hot is written over it.
template <class T>
float cross_entropy(T* row, const float* bias, int64_t words, int64_t target, bool errors) {
  const Logits<T> logits{row, bias, words};
  const float top = logits.largest(), wanted = logits.one(target);
  const int64_t whole = logits.whole();
  Vec sums = powers(logits.rest(-std::numeric_limits<float>::infinity()), top);
  for (int64_t i = 0; i < whole; i += LANES) sums += powers(logits.at(i), top);
  const float sum = total(sums), scale = 1.0f / sum;
  if (errors) {
    const Vec rest = powers(logits.rest(0), top) * scale;
    for (int64_t i = 0; i < whole; i += LANES) store(row + i, powers(logits.at(i), top) * scale, LANES);
    store(row + whole, rest, words - whole);
    store(row + target, powers(splat(wanted), top) * scale - 1.0f, 1);
  }
  return std::log(sum) + (top - wanted);
}

Tensor cross_entropy_(Tensor logits, const Tensor& bias, const Tensor& target, bool errors) {
  const int64_t rows = target.numel(), words = bias.numel();
  STD_TORCH_CHECK(logits.is_contiguous() && logits.dim() == 2 && logits.sizes()[0] == rows && logits.sizes()[1] == words,
                  "wanted contiguous logits (", rows, ", ", words, ")");
  STD_TORCH_CHECK(target.is_contiguous(), "wanted contiguous targets");
  const float* add = values(bias, {words});
  const int64_t* targets = target.const_data_ptr<int64_t>();
  for (int64_t s = 0; s < rows; ++s)
    STD_TORCH_CHECK(0 <= targets[s] && targets[s] < words, "target ", targets[s], " is none of ", words, " words");
  Tensor loss = make(logits, {rows});
  float* to = loss.mutable_data_ptr<float>();
  in_precision_of(logits, [&](auto number) {
    auto* data = static_cast<decltype(number)*>(logits.mutable_data_ptr());
    each_row(rows, words, [&](int64_t s) { to[s] = cross_entropy(data + s * words, add, words, targets[s], errors); });
  });
  return loss;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nano_think, m) {
  m.def("cross_entropy_(Tensor(a!) logits, Tensor bias, Tensor target, bool errors) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(nano_think, CPU, m) { m.impl("cross_entropy_", TORCH_BOX(&cross_entropy_)); }
