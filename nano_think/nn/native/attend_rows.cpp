// Attention of one new token for each of R rows over what its slot keeps, in the manner of a decode step.
//
// N heads of width H; keys (slots, N, places, H) and values (slots, N, places, V) may lie anyhow but for the last
// dimension, so that heads may share them. rows: see slots.h.

#include "heads.h"
#include "slots.h"

namespace {

// A cache (slots, N, places, width).
struct Kept {
  const Tensor& held;
  int64_t width;

  explicit Kept(const Tensor& x) : held(x), width(x.sizes()[3]) {
    STD_TORCH_CHECK(x.dim() == 4 && x.strides()[3] == 1, "wanted (slots, N, places, width)");
  }
  int64_t offset(int64_t slot, int64_t n, int64_t place) const {
    return slot * held.strides()[0] + n * held.strides()[1] + place * held.strides()[2];
  }
  const float* at(int64_t slot, int64_t n, int64_t place) const {
    return held.const_data_ptr<float>() + offset(slot, n, place);
  }
};

// scale q k_s for all places s, as vectors of places; -inf behind the last one.
void score(Vec* to, const float* q, const float* k, int64_t step, int64_t width, int64_t places, float scale) {
  for (int64_t s = 0; s < places; s += LANES) {
    Vec part[LANES] = {};
    const float* row[LANES];
    for (int64_t i = 0; i < LANES; ++i) row[i] = k + std::min(s + i, places - 1) * step;
    each_vector(width, [&](int64_t h, int64_t count) {
      const Vec value = load(q + h, count);
      for (int64_t i = 0; i < LANES; ++i) part[i] += value * load(row[i] + h, count);
    });
    Vec sum = sums(part) * scale;
    for (int64_t i = places - s; i < LANES; ++i) sum[i] = -INFINITY;
    to[s / LANES] = sum;
  }
}

// Scores to exp(score - largest); their sum.
float exponentiate(Vec* score, int64_t vectors) {
  Vec most = score[0], all{};
  for (int64_t v = 1; v < vectors; ++v) most = most < score[v] ? score[v] : most;
  float top = most[0];
  for (int64_t i = 1; i < LANES; ++i) top = std::max(top, most[i]);
  for (int64_t v = 0; v < vectors; ++v) all += score[v] = exp2((score[v] - top) * LOG2E);
  return total(all);
}

// to = sum over s of weight_s v_s / sum.
void gather(float* to, const float* weight, const float* v, int64_t step, int64_t width, int64_t places, float sum) {
  for (int64_t first = 0; first < width; first += 4 * LANES) {
    Vec out[4] = {};
    const int64_t part = std::min<int64_t>(4 * LANES, width - first);
    for (int64_t s = 0; s < places; ++s)
      each_vector(part, [&](int64_t h, int64_t count) {
        out[h / LANES] += weight[s] * load(v + s * step + first + h, count);
      });
    each_vector(part, [&](int64_t h, int64_t count) { store(to + first + h, out[h / LANES] / sum, count); });
  }
}

Tensor attend_rows(const Tensor& q, const Tensor& keys, const Tensor& held_values, const Tensor& rows, double scale) {
  const Kept kept_k(keys), kept_v(held_values);
  const Slots at(rows, keys.sizes()[0], std::min(keys.sizes()[2], held_values.sizes()[2]));
  const int64_t N = keys.sizes()[1], H = kept_k.width, V = kept_v.width;
  STD_TORCH_CHECK(held_values.sizes()[0] == keys.sizes()[0] && held_values.sizes()[1] == N, "keys without values");
  const float* query = values(q, {at.count, N, H});
  Tensor y = make(q, {at.count, N, V});
  float* to = y.mutable_data_ptr<float>();
  int64_t most = 0;
  for (int64_t r = 0; r < at.count; ++r) most = std::max(most, at.place[r] - at.begin[r] + 1);
  const int64_t grain = std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, most * (H + V)));
  torch::stable::parallel_for(0, at.count * N, grain, [&](int64_t first, int64_t end) {
    const Buffer weight((most + LANES - 1) / LANES);
    for (int64_t task = first; task < end; ++task) {
      const int64_t r = task / N, n = task % N, begin = at.begin[r], places = at.place[r] - begin + 1;
      score(weight, query + task * H, kept_k.at(at.slot[r], n, begin), keys.strides()[2], H, places, scale);
      const float sum = exponentiate(weight, (places + LANES - 1) / LANES);
      gather(to + task * V, reinterpret_cast<const float*>(weight.data.get()), kept_v.at(at.slot[r], n, begin),
             held_values.strides()[2], V, places, sum);
    }
  });
  return y;
}

// Queries out of one row per token, (R, N, H); keys and values go to their places.
Tensor place_heads(const Tensor& qkv, const std::optional<Tensor>& weight_q, const std::optional<Tensor>& weight_k,
                   const Tensor& cos, const Tensor& sin, const Tensor& rows, const Tensor& keys,
                   const Tensor& held_values, double eps) {
  const Kept kept_k(keys), kept_v(held_values);
  const int64_t N = keys.sizes()[1], H = kept_k.width, D = N * H;
  STD_TORCH_CHECK(kept_v.width == H && H % 2 == 0, "wanted keys and values of one even width");
  const Slots at(rows, keys.sizes()[0], std::min({keys.sizes()[2], held_values.sizes()[2], cos.sizes()[0]}));
  const float *from = values(qkv, {at.count, 3 * D}), *c = values(cos, {cos.sizes()[0], H / 2});
  const float *s = values(sin, {cos.sizes()[0], H / 2}), *w_q = weight_q ? values(*weight_q, {H}) : nullptr;
  const float* w_k = weight_k ? values(*weight_k, {H}) : nullptr;
  Tensor q = make(qkv, {at.count, N, H});
  float *to = q.mutable_data_ptr<float>(), *k = const_cast<float*>(keys.const_data_ptr<float>());
  float* v = const_cast<float*>(held_values.const_data_ptr<float>());
  for (int64_t r = 0; r < at.count; ++r)
    for (int64_t n = 0; n < N; ++n) {
      const float *x = from + r * 3 * D + n * H, *cosine = c + at.place[r] * H / 2, *sine = s + at.place[r] * H / 2;
      turn_head(to + (r * N + n) * H, x, w_q, cosine, sine, H / 2, eps);
      turn_head(k + kept_k.offset(at.slot[r], n, at.place[r]), x + D, w_k, cosine, sine, H / 2, eps);
      std::memcpy(v + kept_v.offset(at.slot[r], n, at.place[r]), x + 2 * D, H * sizeof(float));
    }
  return q;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nano_think, m) {
  m.def("attend_rows(Tensor q, Tensor keys, Tensor values, Tensor rows, float scale) -> Tensor");
  m.def(
      "place_heads(Tensor qkv, Tensor? weight_q, Tensor? weight_k, Tensor cos, Tensor sin, Tensor rows, "
      "Tensor(a!) keys, Tensor(b!) values, float eps) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(nano_think, CPU, m) {
  m.impl("attend_rows", TORCH_BOX(&attend_rows));
  m.impl("place_heads", TORCH_BOX(&place_heads));
}
