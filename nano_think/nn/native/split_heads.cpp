// Queries, keys and values out of one row per token: heads apart, queries and keys normalised and turned by RoPE.
//
// B batch, T tokens, N heads, H head width, D = N H. (B, T, 3 D) <-> three times (B, N, T, H). Numbers are fp32 or bf16
// in memory and fp32 in all arithmetic. Without a weight a head is turned as it is.

#include "heads.h"

namespace {

struct Heads {
  int64_t batch, tokens, heads, width, half;
  const float *cos, *sin, *weights[2];
  float eps;

  Heads(const Tensor& qkv, int64_t heads, const std::optional<Tensor>& weight_q, const std::optional<Tensor>& weight_k,
        const Tensor& cos, const Tensor& sin, double eps)
      : batch(qkv.sizes()[0]), tokens(qkv.sizes()[1]), heads(heads), width(qkv.sizes()[2] / (3 * heads)),
        half(width / 2), cos(values(cos, {tokens, half})), sin(values(sin, {tokens, half})),
        weights{weight_q ? values(*weight_q, {width}) : nullptr, weight_k ? values(*weight_k, {width}) : nullptr},
        eps(eps) {
    STD_TORCH_CHECK(qkv.dim() == 3 && 3 * heads * 2 * half == qkv.sizes()[2], "wanted (B, T, 3 N H), H even");
  }

  int64_t rows() const { return batch * tokens; }
  // Where a head of a token's row lies in (B, N, T, H).
  int64_t apart(int64_t row, int64_t n) const {
    return ((row / tokens * heads + n) * tokens + row % tokens) * width;
  }
  const float* turn(const float* table, int64_t row) const { return table + row % tokens * half; }

  // The gradient of `turn_head`; that of the weight is added to `sum`.
  template <class T>
  void turn_back(T* to, const T* g, const T* x, const float* w, float* sum, int64_t row) const {
    const float *c = turn(cos, row), *s = turn(sin, row);
    const float scale = w ? inverse_root(dot(x, x, width), width, eps) : 1.0f;
    Vec along{};
    auto back = [&](int64_t i, int64_t count) {
      const Vec cosine = load(c + i, count), sine = load(s + i, count);
      const Vec first = load(g + i, count), second = load(g + half + i, count);
      return std::pair(first * cosine + second * sine, second * cosine - first * sine);
    };
    auto weigh = [&](Vec g_u, int64_t i, int64_t count) {
      const Vec turned = g_u * load(x + i, count) * scale;
      store(sum + i, load(sum + i, count) + turned, count);
      along += turned * load(w + i, count);
    };
    if (w)
      each_vector(half, [&](int64_t i, int64_t count) {
        const auto [first, second] = back(i, count);
        weigh(first, i, count);
        weigh(second, half + i, count);
      });
    const float less = total(along) / width * scale;
    each_vector(half, [&](int64_t i, int64_t count) {
      auto [first, second] = back(i, count);
      if (w) {
        first = (first * load(w + i, count) - load(x + i, count) * less) * scale;
        second = (second * load(w + half + i, count) - load(x + half + i, count) * less) * scale;
      }
      store(to + i, first, count);
      store(to + half + i, second, count);
    });
  }
};

using Weight = std::optional<Tensor>;

std::tuple<Tensor, Tensor, Tensor> split_heads(const Tensor& qkv, int64_t n_heads, const Weight& weight_q,
                                               const Weight& weight_k, const Tensor& cos, const Tensor& sin,
                                               double eps) {
  const Heads heads(qkv, n_heads, weight_q, weight_k, cos, sin, eps);
  const int64_t H = heads.width, D = n_heads * H;
  const Tensor held = torch::stable::contiguous(qkv);
  auto room = [&] {
    return torch::stable::new_empty(qkv, {heads.batch, n_heads, heads.tokens, H}, qkv.scalar_type());
  };
  Tensor q = room(), k = room(), v = room();
  in_precision_of(qkv, [&](auto number) {
    using T = decltype(number);
    const T* from = static_cast<const T*>(held.const_data_ptr());
    T *to[] = {static_cast<T*>(q.mutable_data_ptr()), static_cast<T*>(k.mutable_data_ptr())};
    T* to_v = static_cast<T*>(v.mutable_data_ptr());
    each_row(heads.rows(), 3 * D, [&](int64_t row) {
      const T* x = from + row * 3 * D;
      for (int64_t n = 0; n < n_heads; ++n) {
        const int64_t place = heads.apart(row, n);
        for (int64_t i : {0, 1})
          turn_head(to[i] + place, x + i * D + n * H, heads.weights[i], heads.turn(heads.cos, row),
                    heads.turn(heads.sin, row), heads.half, heads.eps);
        std::memcpy(to_v + place, x + 2 * D + n * H, H * sizeof(T));
      }
    });
  });
  return {q, k, v};
}

std::tuple<Tensor, Tensor, Tensor> split_heads_backward(const Tensor& g_q, const Tensor& g_k, const Tensor& g_v,
                                                        const Tensor& qkv, int64_t n_heads, const Weight& weight_q,
                                                        const Weight& weight_k, const Tensor& cos, const Tensor& sin,
                                                        double eps) {
  const Heads heads(qkv, n_heads, weight_q, weight_k, cos, sin, eps);
  const int64_t H = heads.width, D = n_heads * H;
  const Tensor held = torch::stable::contiguous(qkv);
  const Tensor above[] = {torch::stable::contiguous(g_q), torch::stable::contiguous(g_k),
                          torch::stable::contiguous(g_v)};
  for (const Tensor& g : above)
    STD_TORCH_CHECK(g.scalar_type() == qkv.scalar_type() && g.numel() == heads.rows() * D, "wrong gradient");
  Tensor g_qkv = torch::stable::new_empty(qkv, {heads.batch, heads.tokens, 3 * D}, qkv.scalar_type());
  const WeightSums sums(qkv, heads.rows(), 2 * H);
  in_precision_of(qkv, [&](auto number) {
    using T = decltype(number);
    const T *from = static_cast<const T*>(held.const_data_ptr()), *up[3];
    for (int64_t i : {0, 1, 2}) up[i] = static_cast<const T*>(above[i].const_data_ptr());
    T* to = static_cast<T*>(g_qkv.mutable_data_ptr());
    sums.each([&](int64_t row, float* sum) {
      const T* x = from + row * 3 * D;
      T* g = to + row * 3 * D;
      for (int64_t n = 0; n < n_heads; ++n) {
        const int64_t place = heads.apart(row, n), at = n * H;
        for (int64_t i : {0, 1})
          heads.turn_back(g + i * D + at, up[i] + place, x + i * D + at, heads.weights[i], sum + i * H, row);
        std::memcpy(g + 2 * D + at, up[2] + place, H * sizeof(T));
      }
    });
  });
  const Tensor both = sums.added();
  Tensor g_weights[] = {make(qkv, {H}), make(qkv, {H})};
  for (int64_t i : {0, 1})
    std::memcpy(g_weights[i].mutable_data_ptr<float>(), both.const_data_ptr<float>() + i * H, H * sizeof(float));
  return {g_qkv, g_weights[0], g_weights[1]};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nano_think, m) {
  m.def(
      "split_heads(Tensor qkv, int n_heads, Tensor? weight_q, Tensor? weight_k, Tensor cos, Tensor sin, float eps) "
      "-> (Tensor, Tensor, Tensor)");
  m.def(
      "split_heads_backward(Tensor g_q, Tensor g_k, Tensor g_v, Tensor qkv, int n_heads, Tensor? weight_q, "
      "Tensor? weight_k, Tensor cos, Tensor sin, float eps) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(nano_think, CPU, m) {
  m.impl("split_heads", TORCH_BOX(&split_heads));
  m.impl("split_heads_backward", TORCH_BOX(&split_heads_backward));
}
