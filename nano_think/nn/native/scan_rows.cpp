// One step of a Mamba-2 layer between its two linear maps, for one new token of each of R rows.
//
// I = G P channels in G heads, N states per channel, K taps; a row of the projection is [gate (I); x (I), B (N), C (N);
// dt (G)]. tail (slots, K - 1, I + 2 N) holds the last inputs of the convolution, the oldest first, state (slots, G, P,
// N) the scan's. rows: see slots.h.

#include "slots.h"

namespace {

struct Layer {
  int64_t heads, channels, states, taps, width;
  const float *weight, *bias, *dt_bias, *log_A, *skip;

  int64_t inner() const { return heads * channels; }

  // [x, B, C] = SiLU(conv), over the taps that reach tokens of the row's document; the tail moves on.
  void convolve(float* to, float* tail, const float* now, int64_t reach) const {
    each_vector(width, [&](int64_t i, int64_t count) {
      Vec sum = load(bias + i, count) + load(weight + i, count) * load(now + i, count);
      for (int64_t k = 1; k < reach; ++k)
        sum += load(weight + k * width + i, count) * load(tail + (taps - 1 - k) * width + i, count);
      store(to + i, sum * sigmoid(sum), count);
    });
    if (taps == 1) return;
    std::memmove(tail, tail + width, (taps - 2) * width * sizeof(float));
    std::memcpy(tail + (taps - 2) * width, now, width * sizeof(float));
  }

  // S = exp(dt A) S + dt x B^T, y = (S C + skip x) SiLU(gate), of one head; a fresh state is empty.
  void step(float* y, float* state, const float* x, const float* B, const float* C, const float* gate, float dt,
            int64_t g, bool fresh) const {
    const float decay = exp2(splat(-dt * exp2(splat(log_A[g] * LOG2E))[0] * LOG2E))[0];
    for (int64_t p = 0; p < channels; p += LANES) {
      const int64_t count = std::min(LANES, channels - p);
      Vec sum[LANES] = {};
      for (int64_t i = 0; i < count; ++i) {
        float* row = state + (p + i) * states;
        each_vector(states, [&](int64_t n, int64_t some) {
          Vec now = load(B + n, some) * (dt * x[p + i]);
          if (!fresh) now += load(row + n, some) * decay;
          store(row + n, now, some);
          sum[i] += now * load(C + n, some);
        });
      }
      const Vec open = load(gate + p, count);
      store(y + p, (sums(sum) + load(x + p, count) * skip[g]) * open * sigmoid(open), count);
    }
  }
};

Tensor scan_rows(const Tensor& projected, const Tensor& weight, const Tensor& bias, const Tensor& dt_bias,
                 const Tensor& log_A, const Tensor& skip, const Tensor& rows, const Tensor& tail, const Tensor& state) {
  STD_TORCH_CHECK(state.dim() == 4 && weight.dim() == 2, "wanted state (slots, G, P, N) and weight (K, I + 2 N)");
  const int64_t slots = state.sizes()[0], G = state.sizes()[1], P = state.sizes()[2], N = state.sizes()[3];
  const int64_t taps = weight.sizes()[0], I = G * P, width = I + 2 * N;
  const Slots at(rows, slots, INT64_MAX);
  const Layer layer{G, P, N, taps, width, values(weight, {taps, width}), values(bias, {width}), values(dt_bias, {G}),
                    values(log_A, {G}), values(skip, {G})};
  const float* from = values(projected, {at.count, I + width + G});
  float* kept = const_cast<float*>(values(tail, {slots, taps - 1, width}));
  float* states = const_cast<float*>(values(state, {slots, G, P, N}));
  Tensor y = make(projected, {at.count, I});
  float* to = y.mutable_data_ptr<float>();
  each_row(at.count, I * N, [&](int64_t r) {
    const float *gate = from + r * (I + width + G), *dt = gate + I + width;
    const int64_t slot = at.slot[r], seen = at.place[r] - at.begin[r];
    const std::unique_ptr<float[]> x(new float[width]);
    layer.convolve(x.get(), kept + slot * (taps - 1) * width, gate + I, std::min(taps, seen + 1));
    for (int64_t g = 0; g < G; ++g)
      layer.step(to + r * I + g * P, states + (slot * G + g) * P * N, x.get() + g * P, x.get() + I, x.get() + I + N,
                 gate + g * P, softplus(splat(dt[g] + layer.dt_bias[g]))[0], g, seen == 0);
  });
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nano_think, m) {
  m.def(
      "scan_rows(Tensor projected, Tensor weight, Tensor bias, Tensor dt_bias, Tensor log_A, Tensor skip, Tensor rows, "
      "Tensor(a!) tail, Tensor(b!) state) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(nano_think, CPU, m) { m.impl("scan_rows", TORCH_BOX(&scan_rows)); }
