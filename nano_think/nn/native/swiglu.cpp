// SiLU(gate) * up of rows (gate, up), and the gradient of both as one row.
//
// S rows, F inner width. Numbers are fp32 or bf16 in memory and fp32 in all arithmetic.

#include "vectors.h"

namespace {

// Rows (S, 2 F) and what is done to LANES of their F columns at once, or to fewer at the end of a row.
struct Pairs {
  Tensor held;
  int64_t rows, inner;

  explicit Pairs(const Tensor& gate_up)
      : held(torch::stable::contiguous(gate_up)), rows(held.sizes()[0]), inner(held.sizes()[1] / 2) {
    STD_TORCH_CHECK(held.dim() == 2 && held.sizes()[1] == 2 * inner, "wanted (S, 2 F)");
  }

  template <class F>
  void each(F work) const {
    each_row(rows, 2 * inner, [&](int64_t row) {
      each_vector(inner, [&](int64_t i, int64_t count) { work(row, i, count); });
    });
  }
};

Tensor swiglu(const Tensor& gate_up) {
  const Pairs pairs(gate_up);
  const int64_t F = pairs.inner;
  Tensor y = torch::stable::new_empty(gate_up, {pairs.rows, F}, gate_up.scalar_type());
  in_precision_of(gate_up, [&](auto number) {
    using T = decltype(number);
    const T* from = static_cast<const T*>(pairs.held.const_data_ptr());
    T* to = static_cast<T*>(y.mutable_data_ptr());
    pairs.each([=](int64_t row, int64_t i, int64_t count) {
      const T* at = from + 2 * row * F + i;
      const Vec gate = load(at, count);
      store(to + row * F + i, gate * sigmoid(gate) * load(at + F, count), count);
    });
  });
  return y;
}

Tensor swiglu_backward(const Tensor& g_y, const Tensor& gate_up) {
  const Pairs pairs(gate_up);
  const int64_t F = pairs.inner;
  const Tensor up_stream = torch::stable::contiguous(g_y);
  STD_TORCH_CHECK(g_y.scalar_type() == gate_up.scalar_type() && g_y.dim() == 2 && g_y.sizes()[0] == pairs.rows &&
                      g_y.sizes()[1] == F,
                  "wrong shape or precision of the gradient");
  Tensor g = torch::stable::new_empty(gate_up, {pairs.rows, 2 * F}, gate_up.scalar_type());
  in_precision_of(gate_up, [&](auto number) {
    using T = decltype(number);
    const T* from = static_cast<const T*>(pairs.held.const_data_ptr());
    const T* above = static_cast<const T*>(up_stream.const_data_ptr());
    T* to = static_cast<T*>(g.mutable_data_ptr());
    pairs.each([=](int64_t row, int64_t i, int64_t count) {
      const int64_t at = 2 * row * F + i;
      const Vec gate = load(from + at, count), open = sigmoid(gate), down = load(above + row * F + i, count);
      store(to + at, down * load(from + at + F, count) * open * (1.0f + gate * (1.0f - open)), count);
      store(to + at + F, down * gate * open, count);
    });
  });
  return g;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nano_think, m) {
  m.def("swiglu(Tensor gate_up) -> Tensor");
  m.def("swiglu_backward(Tensor g_y, Tensor gate_up) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(nano_think, CPU, m) {
  m.impl("swiglu", TORCH_BOX(&swiglu));
  m.impl("swiglu_backward", TORCH_BOX(&swiglu_backward));
}
