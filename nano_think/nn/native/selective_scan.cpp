// The selective scan of Gu and Dao (2023, algorithm 2), forward and backward.
//
// B batch, T tokens, I channels, N states per channel. The state is kept every CHUNK tokens; the backward pass makes
// the states between again.

#include "vectors.h"

namespace {

// Tokens between two kept states, and states that stay in registers at once.
constexpr int64_t CHUNK = 16, GROUP = 8;

struct Scan {
  Rows u, dt, B, C;
  std::optional<Rows> z;
  const float *A, *D;
  const bool* fresh;
  bool soft;
  int64_t batch, tokens, states, chunks;
  Cut cut;

  Scan(const Tensor& u, const Tensor& dt, const Tensor& A, const Tensor& B, const Tensor& C, const Tensor& D,
       const std::optional<Tensor>& z, const Tensor& fresh, bool soft)
      : u(u, A.sizes()[0]), dt(dt, A.sizes()[0]), B(B, A.sizes()[1]), C(C, A.sizes()[1]),
        A(values(A, {A.sizes()[0], A.sizes()[1]})), D(values(D, {A.sizes()[0]})), fresh(fresh.const_data_ptr<bool>()),
        soft(soft), batch(u.sizes()[0]), tokens(u.sizes()[1]), states(A.sizes()[1]),
        chunks((tokens + CHUNK - 1) / CHUNK), cut(A.sizes()[0]) {
    if (z) this->z.emplace(*z, cut.channels);
  }

  // The same for every width of vectors, so that it can be told without asking.
  int64_t kept_size() const { return batch * chunks * states * ((cut.channels + 15) / 16 * 16); }
  int64_t kept_at(int64_t b, int64_t v, int64_t chunk) const {
    return ((b * chunks + chunk) * cut.vectors + v) * states * LANES;
  }

  // (I, N) in memory -> [n] of the vector v, times a factor; zeros where there is nothing.
  void pack(Vec* to, const float* from, int64_t v, float factor) const {
    for (int64_t n = 0; n < states; ++n) {
      Vec x{};
      for (int64_t i = 0; from && i < cut.count(v); ++i) x[i] = from[(v * LANES + i) * states + n] * factor;
      to[n] = x;
    }
  }
  void unpack(float* to, const Vec* from, int64_t v) const {
    for (int64_t n = 0; n < states; ++n)
      for (int64_t i = 0; i < cut.count(v); ++i) to[(v * LANES + i) * states + n] = from[n][i];
  }
};

// What the tokens of a chunk have in the channels of one vector.
struct Chunk {
  const float *B, *C;
  int64_t B_token, C_token, length;
  const bool* fresh;
  Vec dt[CHUNK], u[CHUNK], dtu[CHUNK], y[CHUNK];

  // `ahead` is the way to the chunk that comes next.
  Chunk(const Scan& scan, int64_t b, int64_t chunk, int64_t v, int64_t ahead) {
    const int64_t first = chunk * CHUNK, count = scan.cut.count(v), at = v * LANES;
    length = std::min(CHUNK, scan.tokens - first);
    B = scan.B.at(b, first), B_token = scan.B.token;
    C = scan.C.at(b, first), C_token = scan.C.token;
    fresh = scan.fresh + b * scan.tokens + first;
    const Vec D = load(scan.D + at, count);
    for (int64_t t = 0; t < length; ++t) {
      scan.u.expect(b, first + t + ahead, at);
      scan.dt.expect(b, first + t + ahead, at);
      u[t] = load(scan.u.at(b, first + t) + at, count);
      dt[t] = load(scan.dt.at(b, first + t) + at, count);
      if (scan.soft) dt[t] = softplus(dt[t]);
      dtu[t] = dt[t] * u[t];
      y[t] = D * u[t];
    }
  }

  // The recurrence for the states n to n + G; with `kept`, decays and states of every token are written down too.
  template <int G, bool keep>
  void advance(int64_t n, const Vec* A, Vec* state, Vec* decays, Vec* kept) {
    Vec h[G];
    for (int i = 0; i < G; ++i) h[i] = state[n + i];
    for (int64_t t = 0; t < length; ++t) {
      const float *b = B + t * B_token + n, *c = C + t * C_token + n;
      Vec out = y[t];
      const Vec d = dt[t], x = dtu[t];
      if (fresh[t])
        for (int i = 0; i < G; ++i) h[i] = Vec{};
#pragma GCC unroll 8
      for (int i = 0; i < G; ++i) {
        const Vec a = exp2(d * A[n + i]);
        h[i] = a * h[i] + x * b[i];
        out += h[i] * c[i];
        if (keep) decays[t * G + i] = a, kept[t * G + i] = h[i];
      }
      if (keep && fresh[t])
        for (int i = 0; i < G; ++i) decays[t * G + i] = Vec{};
      y[t] = out;
    }
    if (!keep)
      for (int i = 0; i < G; ++i) state[n + i] = h[i];
  }
};

std::tuple<Tensor, Tensor, Tensor> scan_forward(
    const Tensor& u, const Tensor& dt, const Tensor& A, const Tensor& B, const Tensor& C, const Tensor& D,
    const std::optional<Tensor>& z, const Tensor& fresh, const std::optional<Tensor>& state, bool soft, bool keep) {
  const Scan scan(u, dt, A, B, C, D, z, fresh, soft);
  const Cut& cut = scan.cut;
  const int64_t I = cut.channels, N = scan.states;
  Tensor y = make(u, {scan.batch, scan.tokens, I}), last = make(u, {scan.batch, I, N});
  Tensor checkpoints = make(u, {keep ? scan.kept_size() : 0});
  float *out = y.mutable_data_ptr<float>(), *end = last.mutable_data_ptr<float>();
  float* kept = checkpoints.mutable_data_ptr<float>();
  const float* begin = state ? values(*state, {scan.batch, I, N}) : nullptr;

  cut.each_task(scan.batch, [&](int64_t b, int64_t block) {
    const int64_t first = cut.first(block), width = cut.first(block + 1) - first;
    Buffer decay(width * N), h(width * N);
    for (int64_t v = 0; v < width; ++v) {
      scan.pack(decay + v * N, scan.A, first + v, LOG2E);
      scan.pack(h + v * N, begin ? begin + b * I * N : nullptr, first + v, 1);
    }
    for (int64_t chunk = 0; chunk < scan.chunks; ++chunk)
      for (int64_t v = 0; v < width; ++v) {
        if (keep) std::memcpy(kept + scan.kept_at(b, first + v, chunk), h + v * N, N * sizeof(Vec));
        Chunk part(scan, b, chunk, first + v, CHUNK);
        int64_t n = 0;
        for (; n + GROUP <= N; n += GROUP) part.advance<GROUP, false>(n, decay + v * N, h + v * N, nullptr, nullptr);
        for (; n < N; ++n) part.advance<1, false>(n, decay + v * N, h + v * N, nullptr, nullptr);
        const int64_t count = cut.count(first + v), at = (first + v) * LANES;
        for (int64_t t = 0; t < part.length; ++t) {
          const int64_t token = chunk * CHUNK + t;
          if (scan.z) {
            scan.z->expect(b, token + CHUNK, at);
            const Vec gate = load(scan.z->at(b, token) + at, count);
            part.y[t] *= gate * sigmoid(gate);
          }
          store(out + (b * scan.tokens + token) * I + at, part.y[t], count);
        }
      }
    for (int64_t v = 0; v < width; ++v) scan.unpack(end + b * I * N, h + v * N, first + v);
  });
  return {y, last, checkpoints};
}

// The chunk, and the gradients of what it has; g_state is that of the state after it, then before it.
struct ChunkBack : Chunk {
  Vec gy[CHUNK], g_dtu[CHUNK], g_log[CHUNK];

  using Chunk::Chunk;

  // g_log gathers the gradient of dt through the decays, in units of log 2.
  template <int G>
  void reverse(int64_t n, int64_t N, const Vec* A, const Vec* before, const Vec* decays, const Vec* kept, Vec* g_state,
               Vec* g_A, Vec* g_B, Vec* g_C) {
    Vec g[G], ga[G];
    for (int i = 0; i < G; ++i) g[i] = g_state[n + i], ga[i] = g_A[n + i];
    for (int64_t t = length - 1; t >= 0; --t) {
      const float *b = B + t * B_token + n, *c = C + t * C_token + n;
      const Vec *h = kept + t * G, *earlier = t ? h - G : before + n;
      const Vec up = gy[t], d = dt[t], x = dtu[t];
      Vec to_dtu = g_dtu[t], to_log = g_log[t];
#pragma GCC unroll 8
      for (int i = 0; i < G; ++i) {
        g[i] += up * c[i];
        g_C[t * N + n + i] += up * h[i];
        g_B[t * N + n + i] += g[i] * x;
        to_dtu += g[i] * b[i];
        g[i] *= decays[t * G + i];
        const Vec through = g[i] * earlier[i];
        to_log += through * A[n + i];
        ga[i] += through * d;
      }
      g_dtu[t] = to_dtu, g_log[t] = to_log;
    }
    for (int i = 0; i < G; ++i) g_state[n + i] = g[i], g_A[n + i] = ga[i];
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> scan_backward(
    const Tensor& g_y, const std::optional<Tensor>& g_last, const Tensor& u, const Tensor& dt, const Tensor& A,
    const Tensor& B, const Tensor& C, const Tensor& D, const std::optional<Tensor>& z, const Tensor& fresh,
    const Tensor& checkpoints, bool soft) {
  const Scan scan(u, dt, A, B, C, D, z, fresh, soft);
  const Rows up(g_y, scan.cut.channels);
  const Cut& cut = scan.cut;
  const int64_t I = cut.channels, N = scan.states, T = scan.tokens;
  Tensor g_u = make(u, {scan.batch, T, I}), g_dt = make(u, {scan.batch, T, I});
  Tensor g_z = make(u, {scan.z ? scan.batch : 0, T, I}), g_first = make(u, {scan.batch, I, N});
  Tensor A_parts = make(u, {scan.batch, I, N}), D_parts = make(u, {scan.batch, I});
  Tensor B_parts = make(u, {cut.blocks, scan.batch, T, N}), C_parts = make(u, {cut.blocks, scan.batch, T, N});
  float *to_u = g_u.mutable_data_ptr<float>(), *to_dt = g_dt.mutable_data_ptr<float>();
  float *to_z = g_z.mutable_data_ptr<float>(), *to_first = g_first.mutable_data_ptr<float>();
  float *to_A = A_parts.mutable_data_ptr<float>(), *to_D = D_parts.mutable_data_ptr<float>();
  float *to_B = B_parts.mutable_data_ptr<float>(), *to_C = C_parts.mutable_data_ptr<float>();
  const float* kept = checkpoints.const_data_ptr<float>();
  const float* from_last = g_last ? values(*g_last, {scan.batch, I, N}) : nullptr;

  cut.each_task(scan.batch, [&](int64_t b, int64_t block) {
    const int64_t first = cut.first(block), width = cut.first(block + 1) - first;
    Buffer decay(width * N), g_state(width * N), g_A(width * N), g_D(width);
    Buffer before(N), decays(CHUNK * GROUP), states(CHUNK * GROUP), g_B(CHUNK * N), g_C(CHUNK * N);
    for (int64_t v = 0; v < width; ++v) {
      scan.pack(decay + v * N, scan.A, first + v, LOG2E);
      scan.pack(g_state + v * N, from_last ? from_last + b * I * N : nullptr, first + v, 1);
    }
    for (int64_t chunk = scan.chunks - 1; chunk >= 0; --chunk) {
      std::memset((Vec*)g_B, 0, CHUNK * N * sizeof(Vec));
      std::memset((Vec*)g_C, 0, CHUNK * N * sizeof(Vec));
      for (int64_t v = 0; v < width; ++v) {
        const int64_t count = cut.count(first + v), at = (first + v) * LANES;
        std::memcpy(before, kept + scan.kept_at(b, first + v, chunk), N * sizeof(Vec));
        ChunkBack part(scan, b, chunk, first + v, -CHUNK);
        Vec above[CHUNK], gate[CHUNK], open[CHUNK];
        for (int64_t t = 0; t < part.length; ++t) {
          up.expect(b, (chunk - 1) * CHUNK + t, at);
          above[t] = part.gy[t] = load(up.at(b, chunk * CHUNK + t) + at, count);
          part.g_dtu[t] = part.g_log[t] = Vec{};
          if (scan.z) {
            scan.z->expect(b, (chunk - 1) * CHUNK + t, at);
            gate[t] = load(scan.z->at(b, chunk * CHUNK + t) + at, count);
            open[t] = sigmoid(gate[t]);
            part.gy[t] *= gate[t] * open[t];
          }
        }
        auto group = [&]<int G>(int64_t n) {
          part.advance<G, true>(n, decay + v * N, before, decays, states);
          part.reverse<G>(n, N, decay + v * N, before, decays, states, g_state + v * N, g_A + v * N, g_B, g_C);
        };
        int64_t n = 0;
        for (; n + GROUP <= N; n += GROUP) group.template operator()<GROUP>(n);
        for (; n < N; ++n) group.template operator()<1>(n);
        const Vec skip = load(scan.D + at, count);
        for (int64_t t = 0; t < part.length; ++t) {
          const int64_t token = chunk * CHUNK + t, place = (b * T + token) * I + at;
          Vec g = part.g_dtu[t] * part.u[t] + part.g_log[t] * LN2;
          if (scan.soft) g *= sigmoid(load(scan.dt.at(b, token) + at, count));
          store(to_dt + place, g, count);
          store(to_u + place, part.g_dtu[t] * part.dt[t] + part.gy[t] * skip, count);
          g_D[v] += part.gy[t] * part.u[t];
          if (scan.z)
            store(to_z + place, above[t] * part.y[t] * open[t] * (1.0f + gate[t] * (1.0f - open[t])), count);
        }
      }
      const int64_t length = std::min(CHUNK, T - chunk * CHUNK);
      const int64_t row = ((block * scan.batch + b) * T + chunk * CHUNK) * N;
      for (int64_t i = 0; i < length * N; i += LANES) {
        const int64_t count = std::min(LANES, length * N - i);
        store(to_B + row + i, sums(g_B + i), count);
        store(to_C + row + i, sums(g_C + i), count);
      }
    }
    for (int64_t v = 0; v < width; ++v) {
      scan.unpack(to_first + b * I * N, g_state + v * N, first + v);
      scan.unpack(to_A + b * I * N, g_A + v * N, first + v);
      store(to_D + b * I + (first + v) * LANES, g_D[v], cut.count(first + v));
    }
  });

  Tensor g_A = make(u, {I, N}), g_D = make(u, {I});
  Tensor g_B = make(u, {scan.batch, T, N}), g_C = make(u, {scan.batch, T, N});
  add_parts(to_A, g_A.mutable_data_ptr<float>(), scan.batch, I * N);
  add_parts(to_D, g_D.mutable_data_ptr<float>(), scan.batch, I);
  add_parts(to_B, g_B.mutable_data_ptr<float>(), cut.blocks, scan.batch * T * N);
  add_parts(to_C, g_C.mutable_data_ptr<float>(), cut.blocks, scan.batch * T * N);
  return {g_u, g_dt, g_A, g_B, g_C, g_D, g_z, g_first};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nano_think, m) {
  m.def(
      "selective_scan(Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor D, Tensor? z, Tensor fresh, "
      "Tensor? state, bool soft, bool keep) -> (Tensor, Tensor, Tensor)");
  m.def(
      "selective_scan_backward(Tensor g_y, Tensor? g_last, Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C, "
      "Tensor D, Tensor? z, Tensor fresh, Tensor checkpoints, bool soft) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(nano_think, CPU, m) {
  m.impl("selective_scan", TORCH_BOX(&scan_forward));
  m.impl("selective_scan_backward", TORCH_BOX(&scan_backward));
}
