// Vectors of channels, their elementary functions, and how work is cut: what the kernels of this folder share.
//
// One vector holds LANES neighbouring channels, in GCC's and Clang's vector extension. A task is one sequence and one
// block of channels, whose borders depend on the number of channels alone, and sums over tasks are taken in a fixed
// order: no bit depends on the number of threads. Nothing here may be built with -ffast-math: NaN must stay NaN.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

using torch::stable::Tensor;

#if defined(__AVX512F__)
constexpr int64_t LANES = 16;
#elif defined(__AVX__)
constexpr int64_t LANES = 8;
#else
constexpr int64_t LANES = 4;
#endif
typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t Int __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));

// A bf16 number: the upper half of an fp32 number's bits.
typedef uint16_t Half;
typedef Half Halves __attribute__((vector_size(2 * LANES)));

// Most vectors of channels in a block.
constexpr int64_t BLOCK = 12;
constexpr float LOG2E = 1.44269504f, LN2 = 0.693147181f;

inline Vec splat(float x) { return x - Vec{}; }

inline Vec load(const float* from, int64_t count) {
  Vec x{};
  if (count == LANES)
    std::memcpy(&x, from, sizeof x);
  else
    std::memcpy(&x, from, count * sizeof(float));
  return x;
}

inline void store(float* to, Vec x, int64_t count) {
  if (count == LANES)
    std::memcpy(to, &x, sizeof x);
  else
    std::memcpy(to, &x, count * sizeof(float));
}

inline Vec load(const Half* from, int64_t count) {
  Halves x{};
  if (count == LANES)
    std::memcpy(&x, from, sizeof x);
  else
    std::memcpy(&x, from, count * sizeof(Half));
  return (Vec)(__builtin_convertvector(x, Bits) << 16);
}

// Rounds to the nearest bf16 number, of two the even one; NaN stays NaN.
inline void store(Half* to, Vec x, int64_t count) {
  const Bits bits = (Bits)x, rounded = bits + 0x7FFF + (bits >> 16 & 1);
  const Halves y = __builtin_convertvector((x == x ? rounded : bits | 0x400000) >> 16, Halves);
  if (count == LANES)
    std::memcpy(to, &y, sizeof y);
  else
    std::memcpy(to, &y, count * sizeof(Half));
}

// The sum of a vector's lanes, in their order.
inline float total(Vec x) {
  float sum = x[0];
  for (int64_t i = 1; i < LANES; ++i) sum += x[i];
  return sum;
}

// Whether a comparison holds in any lane.
inline bool any(Int lanes) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)lanes, (__m512i)lanes);
#else
  int32_t found = 0;
  for (int64_t i = 0; i < LANES; ++i) found |= lanes[i];
  return found;
#endif
}

template <int... i>
inline Vec pair_sums(Vec x, Vec y, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(x, y, (2 * i)...) + __builtin_shufflevector(x, y, (2 * i + 1)...);
}

// The sum of each of LANES vectors, in their order.
inline Vec sums(const Vec* x) {
  Vec part[LANES];
  std::memcpy(part, x, sizeof part);
  for (int64_t width = LANES / 2; width; width /= 2)
    for (int64_t i = 0; i < width; ++i)
      part[i] = pair_sums(part[2 * i], part[2 * i + 1], std::make_integer_sequence<int, LANES>{});
  return part[0];
}

// 2^x to 2e-7 and exactly 1 at 0; infinity, zero and NaN come out as they should.
inline Vec exp2(Vec x) {
#if defined(__AVX512F__)
  const Vec whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  // Adding 1.5 * 2^23 leaves the nearest whole number in the lowest bits.
  x = x < -300.0f ? splat(-300.0f) : x > 300.0f ? splat(300.0f) : x;
  const Vec shifted = x + 12582912.0f;
  const Vec whole = shifted - 12582912.0f;
#endif
  const Vec f = x - whole;
  Vec p = f * 1.3264727e-3f + 9.6715127e-3f;
  p = p * f + 5.5507334e-2f;
  p = p * f + 2.4022242e-1f;
  p = p * f + 6.9314698e-1f;
  p = p * f + 1.0f;
#if defined(__AVX512F__)
  return _mm512_scalef_ps(p, whole);
#else
  // Three factors: one alone cannot reach the denormals or infinity.
  const Int n = (Int)shifted - 0x4B400000, third = n / 3;
  const Vec step = (Vec)((third + 127) << 23);
  return p * step * step * (Vec)((n - 2 * third + 127) << 23);
#endif
}

inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp2(x * -LOG2E)); }

// log(1 + exp(x)) = max(x, 0) + 2 artanh(e / (2 + e)) with e = exp(-|x|): exact also where it is small.
inline Vec softplus(Vec x) {
  const Vec e = exp2((x < 0.0f ? x : -x) * LOG2E);
  const Vec s = e / (2.0f + e), q = s * s;
  Vec p = q * 1.4005994e-1f + 1.4000902e-1f;
  p = p * q + 2.0010764e-1f;
  p = p * q + 3.3333208e-1f;
  p = p * q + 1.0f;
  return (x > 0.0f ? x : Vec{}) + 2.0f * s * p;
}

// A tensor (B, T, width) of fp32 whose rows are contiguous, wherever they lie.
struct Rows {
  Tensor held;
  const float* data;
  int64_t batch, token, tokens;

  Rows(const Tensor& x, int64_t width) : held(x) {
    STD_TORCH_CHECK(x.dim() == 3 && x.sizes()[2] == width, "wanted (B, T, ", width, ")");
    if (x.strides()[2] != 1) held = torch::stable::contiguous(x);
    data = held.const_data_ptr<float>();
    batch = held.strides()[0];
    token = held.strides()[1];
    tokens = held.sizes()[1];
  }
  const float* at(int64_t b, int64_t t) const { return data + b * batch + t * token; }
  // Ask for what is needed soon: the processor cannot guess the next row from pieces of rows.
  void expect(int64_t b, int64_t t, int64_t channel) const {
    if (t >= 0 && t < tokens) __builtin_prefetch(at(b, t) + channel);
  }
};

struct Buffer {
  std::unique_ptr<Vec[]> data;
  explicit Buffer(int64_t size) : data(new Vec[size]()) {}
  operator Vec*() const { return data.get(); }
};

// How the channels are cut: vectors v hold channels from v * LANES, blocks hold vectors from first(block).
struct Cut {
  int64_t channels, vectors, blocks;

  explicit Cut(int64_t n) : channels(n), vectors((n + LANES - 1) / LANES), blocks((vectors + BLOCK - 1) / BLOCK) {}
  int64_t first(int64_t block) const { return block * vectors / blocks; }
  int64_t count(int64_t v) const { return std::min(LANES, channels - v * LANES); }

  template <class F>
  void each_task(int64_t batch, F work) const {
    torch::stable::parallel_for(0, batch * blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) work(task / blocks, task % blocks);
    });
  }
};

// The fp32 values of a contiguous tensor of this shape.
const float* values(const Tensor& x, std::initializer_list<int64_t> shape) {
  STD_TORCH_CHECK(x.is_contiguous() && x.sizes().equals({shape.begin(), shape.size()}), "wrong shape or layout");
  return x.const_data_ptr<float>();
}

// work(number{}) with a number of the tensor's own precision: float, or Half for bf16.
template <class F>
void in_precision_of(const Tensor& x, F work) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::BFloat16, "wanted fp32 or bf16");
  x.scalar_type() == ScalarType::Float ? work(float{}) : work(Half{});
}

// work(row) for all rows of `width` numbers, by as many threads as are worth it. A row is the work of one thread.
template <class F>
void each_row(int64_t rows, int64_t width, F work) {
  const int64_t grain = std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, width));
  torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) work(row);
  });
}

// work(i, count) for the columns from i, LANES at once and fewer at the end.
template <class F>
inline void each_vector(int64_t width, F work) {
  int64_t i = 0;
  for (; i + LANES <= width; i += LANES) work(i, LANES);
  if (i < width) work(i, width - i);
}

Tensor make(const Tensor& like, std::initializer_list<int64_t> sizes) {
  return torch::stable::new_empty(like, sizes, torch::headeronly::ScalarType::Float);
}

// sum over the first dimension of (parts, size), in its order.
void add_parts(const float* parts, float* total, int64_t count, int64_t size) {
  torch::stable::parallel_for(0, size, 1 << 14, [&](int64_t begin, int64_t end) {
    std::memcpy(total + begin, parts + begin, (end - begin) * sizeof(float));
    for (int64_t part = 1; part < count; ++part)
      for (int64_t i = begin; i < end; ++i) total[i] += parts[part * size + i];
  });
}

}  // namespace
