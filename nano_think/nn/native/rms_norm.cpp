// RMSNorm of rows, forward and backward: y = w x / sqrt(mean(x^2) + eps).
//
// S rows, D width. Numbers are fp32 or bf16 in memory and fp32 in all arithmetic; `half` asks for bf16 of whatever x is.

#include "norm.h"

namespace {

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps, bool half) {
  const int64_t S = x.sizes()[0], D = x.sizes()[1];
  const Tensor held = torch::stable::contiguous(x);
  const float* w = values(weight, {D});
  Tensor y = torch::stable::new_empty(x, {S, D}, half ? torch::headeronly::ScalarType::BFloat16 : x.scalar_type());
  in_precision_of(x, [&](auto number) {
    in_precision_of(y, [&](auto result) {
      const auto* from = static_cast<const decltype(number)*>(held.const_data_ptr());
      auto* to = static_cast<decltype(result)*>(y.mutable_data_ptr());
      each_row(S, D, [&](int64_t s) {
        const auto* row = from + s * D;
        const float scale = inverse_root(dot(row, row, D), D, eps);
        each_vector(D, [&](int64_t i, int64_t count) {
          store(to + s * D + i, load(row + i, count) * scale * load(w + i, count), count);
        });
      });
    });
  });
  return y;
}

// The gradients of a row, (D), and what it adds to those of the weights.
template <class X, class G>
void row_backward(const X* row, const G* g, const float* w, int64_t D, double eps, X* to, float* sum) {
  const float scale = inverse_root(dot(row, row, D), D, eps);
  Vec along{};
  each_vector(D, [&](int64_t i, int64_t count) {
    const Vec turned = load(g + i, count) * load(row + i, count) * scale;
    store(sum + i, load(sum + i, count) + turned, count);
    along += turned * load(w + i, count);
  });
  // What the gradient has along the row does not change the normalised row.
  const float back = total(along) / D * scale;
  each_vector(D, [&](int64_t i, int64_t count) {
    const Vec g_n = load(g + i, count) * load(w + i, count);
    store(to + i, (g_n - load(row + i, count) * back) * scale, count);
  });
}

std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& g_y, const Tensor& x, const Tensor& weight, double eps) {
  const int64_t S = x.sizes()[0], D = x.sizes()[1];
  const Tensor held = torch::stable::contiguous(x), above = torch::stable::contiguous(g_y);
  STD_TORCH_CHECK(g_y.sizes().equals(x.sizes()), "wrong gradient");
  const float* w = values(weight, {D});
  Tensor g_x = torch::stable::new_empty(x, {S, D}, x.scalar_type());
  WeightSums sums(x, S, D);
  in_precision_of(x, [&](auto number) {
    in_precision_of(g_y, [&](auto gradient) {
      using X = decltype(number);
      const auto* from = static_cast<const X*>(held.const_data_ptr());
      const auto* up = static_cast<const decltype(gradient)*>(above.const_data_ptr());
      auto* to = static_cast<X*>(g_x.mutable_data_ptr());
      sums.each([&](int64_t s, float* sum) { row_backward(from + s * D, up + s * D, w, D, eps, to + s * D, sum); });
    });
  });
  return {g_x, sums.added()};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nano_think, m) {
  m.def("rms_norm(Tensor x, Tensor weight, float eps, bool half) -> Tensor");
  m.def("rms_norm_backward(Tensor g_y, Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(nano_think, CPU, m) {
  m.impl("rms_norm", TORCH_BOX(&rms_norm));
  m.impl("rms_norm_backward", TORCH_BOX(&rms_norm_backward));
}
