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

  Vec before_silu(int64_t b, int64_t t, int64_t reach, int64_t at, int64_t count) const {
    Vec sum = load(bias + at, count);
    for (int64_t k = 0; k < reach; ++k)
      sum += load(weight + k * cut.channels + at, count) * load(x.at(b, t - k) + at, count);
    return sum;
  }
};

Tensor conv_forward(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& fresh) {
  const Conv conv(x, weight, bias, fresh);
  const Cut& cut = conv.cut;
  Tensor y = make(x, {conv.batch, conv.tokens, cut.channels});
  float* out = y.mutable_data_ptr<float>();
  cut.each_task(conv.batch, [&](int64_t b, int64_t block) {
    const auto reach = conv.reach(b);
    for (int64_t t = 0; t < conv.tokens; ++t)
      for (int64_t v = cut.first(block); v < cut.first(block + 1); ++v) {
        const int64_t count = cut.count(v), at = v * LANES;
        const Vec sum = conv.before_silu(b, t, reach[t], at, count);
        store(out + (b * conv.tokens + t) * cut.channels + at, sum * sigmoid(sum), count);
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
    // Gradients before the SiLU of the last K tokens, in a ring: token t stands in row t % K.
    Buffer ring(K * width), sums(K * width), bias_sum(width);
    for (int64_t t = T - 1; t >= 0; --t)
      for (int64_t v = 0; v < width; ++v) {
        const int64_t count = cut.count(first + v), at = (first + v) * LANES;
        const Vec sum = conv.before_silu(b, t, reach[t], at, count), open = sigmoid(sum);
        const Vec g = load(up.at(b, t) + at, count) * open * (1.0f + sum * (1.0f - open));
        ring[t % K * width + v] = g;
        bias_sum[v] += g;
        for (int64_t k = 0; k < reach[t]; ++k) sums[k * width + v] += g * load(conv.x.at(b, t - k) + at, count);
        Vec down{};
        for (int64_t k = 0; k < K && t + k < T && k < reach[t + k]; ++k)
          down += load(conv.weight + k * I + at, count) * ring[(t + k) % K * width + v];
        store(to_x + (b * T + t) * I + at, down, count);
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
