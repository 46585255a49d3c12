// A linear map of a few rows, with what goes before and behind it in a layer: y = add + f(W g(x)).
//
// g is RMSNorm, times 1 + scale; f is SwiGLU; each may be missing. A weight is read from memory once, whatever the
// number of rows: that is what a step takes its time for. R rows x (R, K), W (O, K), scale (S, K) for S equal shares of
// the rows, one after another. Every output is summed in one order, so that no row's bits depend on the other rows.

#include "norm.h"

namespace {

using Maybe = std::optional<Tensor>;

// Most rows that are multiplied at once: rows times outputs are the LANES sums that one vector takes up.
constexpr int64_t MOST = LANES < 8 ? LANES : 8;

struct Product {
  const float *x, *weight;
  float* y;
  int64_t rows, inner, outputs;

  // The outputs from `first` to `end` of all rows, R rows and LANES / R outputs at a time.
  template <int64_t R>
  void run(int64_t first, int64_t end) const {
    constexpr int64_t O = LANES / R;
    for (int64_t o = first; o < end; o += O)
      for (int64_t r = 0; r < rows; r += R) {
        const float *w[O], *row[R];
        for (int64_t i = 0; i < O; ++i) w[i] = weight + std::min(o + i, end - 1) * inner;
        for (int64_t i = 0; i < R; ++i) row[i] = x + std::min(r + i, rows - 1) * inner;
        const Vec sum = dots<R, O>(row, w);
        for (int64_t i = 0; i < R && r + i < rows; ++i)
          for (int64_t j = 0; j < O && o + j < end; ++j) y[(r + i) * outputs + o + j] = sum[i * O + j];
      }
  }

  // row_i w_j for all i and j, in that order.
  template <int64_t R, int64_t O>
  Vec dots(const float* const* row, const float* const* w) const {
    Vec sum[LANES] = {};
    each_vector(inner, [&](int64_t k, int64_t count) {
      Vec part[O];
      for (int64_t j = 0; j < O; ++j) part[j] = load(w[j] + k, count);
      for (int64_t i = 0; i < R; ++i) {
        const Vec value = load(row[i] + k, count);
        for (int64_t j = 0; j < O; ++j) sum[i * O + j] += value * part[j];
      }
    });
    return sums(sum);
  }

  void run(int64_t first, int64_t end) const {
    if (rows == 1) return run<1>(first, end);
    if (rows == 2) return run<2>(first, end);
    if (rows <= 4) return run<4>(first, end);
    run<MOST>(first, end);
  }

  // All outputs, by as many threads as are worth it.
  void run() const {
    const int64_t blocks = (outputs + LANES - 1) / LANES;
    const int64_t grain = std::max<int64_t>(1, (1 << 15) / std::max<int64_t>(1, LANES * inner));
    torch::stable::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
      run(begin * LANES, std::min(end * LANES, outputs));
    });
  }
};

// g(x), in a buffer of its own.
std::unique_ptr<float[]> prepare(const float* x, int64_t rows, int64_t width, const Maybe& norm, const Maybe& scale,
                                 double eps) {
  std::unique_ptr<float[]> made(new float[rows * width]);
  const float* w = norm ? values(*norm, {width}) : nullptr;
  const int64_t shares = scale ? scale->sizes()[0] : 1;
  if (scale)
    STD_TORCH_CHECK(scale->dim() == 2 && scale->sizes()[1] == width && scale->strides()[1] == 1 && rows % shares == 0,
                    "wrong scale");
  for (int64_t r = 0; r < rows; ++r) {
    const float* from = x + r * width;
    const float* more = scale ? scale->const_data_ptr<float>() + r / (rows / shares) * scale->strides()[0] : nullptr;
    const float root = w ? inverse_root(dot(from, from, width), width, eps) : 1.0f;
    each_vector(width, [&](int64_t i, int64_t count) {
      Vec value = load(from + i, count) * root;
      if (w) value *= load(w + i, count);
      if (more) value *= 1.0f + load(more + i, count);
      store(made.get() + r * width + i, value, count);
    });
  }
  return made;
}

// SiLU(gate) up of gates and as many others behind them.
Tensor gated(const Tensor& gate_up, int64_t rows, int64_t width) {
  Tensor y = make(gate_up, {rows, width});
  const float* from = gate_up.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  for (int64_t r = 0; r < rows; ++r)
    each_vector(width, [&](int64_t i, int64_t count) {
      const Vec gate = load(from + 2 * r * width + i, count);
      store(to + r * width + i, gate * sigmoid(gate) * load(from + (2 * r + 1) * width + i, count), count);
    });
  return y;
}

Tensor linear_rows(const Tensor& x, const Tensor& weight, const Maybe& norm, const Maybe& scale, const Maybe& add,
                   bool gate, double eps) {
  STD_TORCH_CHECK(x.dim() == 2 && weight.dim() == 2, "wanted (R, K) and (O, K)");
  const int64_t rows = x.sizes()[0], inner = x.sizes()[1], outputs = weight.sizes()[0];
  const float *from = values(x, {rows, inner}), *w = values(weight, {outputs, inner});
  Tensor y = make(x, {rows, outputs});
  std::unique_ptr<float[]> made;
  if (norm || scale) made = prepare(from, rows, inner, norm, scale, eps);
  const Product product{made ? made.get() : from, w, y.mutable_data_ptr<float>(), rows, inner, outputs};
  if (rows) product.run();
  if (gate) return gated(y, rows, outputs / 2);
  if (add) {
    const float* more = values(*add, {rows, outputs});
    each_vector(rows * outputs, [&](int64_t i, int64_t count) {
      store(product.y + i, load(product.y + i, count) + load(more + i, count), count);
    });
  }
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nano_think, m) {
  m.def(
      "linear_rows(Tensor x, Tensor weight, Tensor? norm, Tensor? scale, Tensor? add, bool gate, float eps) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(nano_think, CPU, m) { m.impl("linear_rows", TORCH_BOX(&linear_rows)); }
