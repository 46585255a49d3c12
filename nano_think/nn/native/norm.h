// What the norms of rows share: scales, and gradients of weights as sums over rows.

#pragma once

#include <cmath>

#include "vectors.h"

namespace {

template <class T>
inline float dot(const T* one, const T* other, int64_t width) {
  Vec sum{};
  each_vector(width, [&](int64_t i, int64_t count) { sum += load(one + i, count) * load(other + i, count); });
  return total(sum);
}

inline float inverse_root(float squares, int64_t width, float eps) { return 1.0f / std::sqrt(squares / width + eps); }

// The gradient of a weight (D), summed over S rows: first in blocks of rows, whose borders depend on S alone.
class WeightSums {
  static constexpr int64_t ROWS = 64;
  int64_t rows, width, blocks;
  Tensor parts;

 public:
  WeightSums(const Tensor& like, int64_t rows, int64_t width)
      : rows(rows), width(width), blocks((rows + ROWS - 1) / ROWS), parts(make(like, {blocks, width})) {}

  // work(row, sum) for all rows, each with the sum that is its block's.
  template <class F>
  void each(F work) const {
    float* sums = parts.mutable_data_ptr<float>();
    torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        std::memset(sums + block * width, 0, width * sizeof(float));
        for (int64_t row = block * ROWS; row < std::min(rows, (block + 1) * ROWS); ++row)
          work(row, sums + block * width);
      }
    });
  }

  Tensor added() const {
    Tensor sum = make(parts, {width});
    if (blocks)
      add_parts(parts.const_data_ptr<float>(), sum.mutable_data_ptr<float>(), blocks, width);
    else
      std::memset(sum.mutable_data_ptr<float>(), 0, width * sizeof(float));
    return sum;
  }
};

}  // namespace
