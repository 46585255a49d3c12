// The short depthwise convolution of a state-space layer with its SiLU, forward and backward.
//
// y_t = SiLU(b + sum over k of w_k x_{t-k}), k below the number of taps and x_{t-k} in the document of x_t. B batch,
// T tokens, I channels, K taps.

#include "vectors.h"

namespace {

struct Conv {
  Rows x;
  const float *weight, *bias;
  const bool* fresh;
  int64_t batch, tokens, taps;
  Cut cut;

  Conv(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& fresh)
      : x(x, weight.sizes()[1]), weight(values(weight, {weight.sizes()[0], weight.sizes()[1]})),
        bias(values(bias, {weight.sizes()[1]})), fresh(fresh.const_data_ptr<bool>()), batch(x.sizes()[0]),
        tokens(x.sizes()[1]), taps(weight.sizes()[0]), cut(weight.sizes()[1]) {}

  // How many taps reach tokens of the same document, for every token of a sequence.
  std::unique_ptr<int64_t[]> reach(int64_t b) const {
    std::unique_ptr<int64_t[]> count(new int64_t[tokens]);
    for (int64_t t = 0; t < tokens; ++t)
      count[t] = t && !fresh[b * tokens + t] ? std::min(taps, count[t - 1] + 1) : 1;
    return count;
  }

  // What the SiLU is taken of, for the vectors from `first` of one token. Row by row, so that the inner loops are bare.
  void before_silu(Vec* sum, int64_t b, int64_t t, int64_t reach, int64_t first, int64_t width) const {
    for (int64_t v = 0; v < width; ++v) sum[v] = load(bias + (first + v) * LANES, cut.count(first + v));
    for (int64_t k = 0; k < reach; ++k) add_product(sum, x.at(b, t - k), weight + k * cut.channels, first, width);
  }

  // sum += one * other, along the channels of the vectors from `first`.
  void add_product(Vec* sum, const float* one, const float* other, int64_t first, int64_t width) const {
    const int64_t whole = cut.count(first + width - 1) == LANES ? width : width - 1;
    for (int64_t v = 0; v < whole; ++v)
      sum[v] += load(one + (first + v) * LANES, LANES) * load(other + (first + v) * LANES, LANES);
    if (whole < width) {
      const int64_t at = (first + whole) * LANES, count = cut.count(first + whole);
      sum[whole] += load(one + at, count) * load(other + at, count);
    }
  }
};

Tensor conv_forward(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& fresh) {
  const Conv conv(x, weight, bias, fresh);
  const Cut& cut = conv.cut;
  Tensor y = make(x, {conv.batch, conv.tokens, cut.channels});
  float* out = y.mutable_data_ptr<float>();
  cut.each_task(conv.batch, [&](int64_t b, int64_t block) {
    const auto reach = conv.reach(b);
    const int64_t first = cut.first(block), width = cut.first(block + 1) - first;
    Vec sum[BLOCK];
    for (int64_t t = 0; t < conv.tokens; ++t) {
      conv.before_silu(sum, b, t, reach[t], first, width);
      float* row = out + (b * conv.tokens + t) * cut.channels;
      for (int64_t v = 0; v < width; ++v)
        store(row + (first + v) * LANES, sum[v] * sigmoid(sum[v]), cut.count(first + v));
    }
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> conv_backward(
    const Tensor& g_y, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& fresh) {
  const Conv conv(x, weight, bias, fresh);
  const Cut& cut = conv.cut;
  const int64_t I = cut.channels, T = conv.tokens, K = conv.taps;
  const Rows up(g_y, I);
  Tensor g_x = make(x, {conv.batch, T, I}), g_weight = make(x, {K, I}), g_bias = make(x, {I});
  Tensor weight_parts = make(x, {conv.batch, K, I}), bias_parts = make(x, {conv.batch, I});
  float *to_x = g_x.mutable_data_ptr<float>(), *to_weight = weight_parts.mutable_data_ptr<float>();
  float* to_bias = bias_parts.mutable_data_ptr<float>();
  cut.each_task(conv.batch, [&](int64_t b, int64_t block) {
    const auto reach = conv.reach(b);
    const int64_t first = cut.first(block), width = cut.first(block + 1) - first;
    // Gradients before the SiLU of the last K tokens, in a ring: token t stands in row t % K, padded to whole vectors.
    Buffer ring(K * width), sums(K * width), bias_sum(width);
    Vec sum[BLOCK], down[BLOCK];
    for (int64_t t = T - 1; t >= 0; --t) {
      conv.before_silu(sum, b, t, reach[t], first, width);
      Vec* g = ring + t % K * width;
      for (int64_t v = 0; v < width; ++v) {
        const Vec open = sigmoid(sum[v]);
        g[v] = load(up.at(b, t) + (first + v) * LANES, cut.count(first + v)) * open * (1.0f + sum[v] * (1.0f - open));
        bias_sum[v] += g[v];
        down[v] = Vec{};
      }
      for (int64_t k = 0; k < reach[t]; ++k)
        for (int64_t v = 0; v < width; ++v)
          sums[k * width + v] += g[v] * load(conv.x.at(b, t - k) + (first + v) * LANES, cut.count(first + v));
      for (int64_t k = 0; k < K && t + k < T && k < reach[t + k]; ++k) {
        const float* weight_row = conv.weight + k * I + first * LANES;
        for (int64_t v = 0; v < width; ++v)
          down[v] += ring[(t + k) % K * width + v] * load(weight_row + v * LANES, cut.count(first + v));
      }
      for (int64_t v = 0; v < width; ++v)
        store(to_x + (b * T + t) * I + (first + v) * LANES, down[v], cut.count(first + v));
    }
    for (int64_t v = 0; v < width; ++v) {
      const int64_t count = cut.count(first + v), at = (first + v) * LANES;
      store(to_bias + b * I + at, bias_sum[v], count);
      for (int64_t k = 0; k < K; ++k) store(to_weight + (b * K + k) * I + at, sums[k * width + v], count);
    }
  });
  add_parts(to_weight, g_weight.mutable_data_ptr<float>(), conv.batch, K * I);
  add_parts(to_bias, g_bias.mutable_data_ptr<float>(), conv.batch, I);
  return {g_x, g_weight, g_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nano_think, m) {
  m.def("causal_conv_silu(Tensor x, Tensor weight, Tensor bias, Tensor fresh) -> Tensor");
  m.def(
      "causal_conv_silu_backward(Tensor g_y, Tensor x, Tensor weight, Tensor bias, Tensor fresh) "
      "-> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(nano_think, CPU, m) {
  m.impl("causal_conv_silu", TORCH_BOX(&conv_forward));
  m.impl("causal_conv_silu_backward", TORCH_BOX(&conv_backward));
}
