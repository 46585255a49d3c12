// The cross-entropy of a weighted sum of K rows of logits, and its slope in the K weights.
//
// S rows, K parts of each, V words. The parts are fp32, bf16 or fp16 in memory, all arithmetic is fp32. They are read
// from memory once, a group of words after another: the largest sum so far is kept beside the sums that are relative to
// it, which shrink where a larger one comes (Milakov and Gimelshein 2018).

#include <cmath>
#include <limits>

#include "vectors.h"

namespace {

// Vectors of a group, and how many words ahead of it memory is asked for.
constexpr int GROUP = 4;
constexpr int64_t AHEAD = 512;

// An fp16 number's bits.
struct Fp16 {
  uint16_t bits;
};

inline Vec load(const Fp16* from, int64_t count) {
  Halves x{};
  std::memcpy(&x, from, count * sizeof(Fp16));
#if defined(__AVX512F__)
  return _mm512_cvtph_ps((__m256i)x);
#else
  // An fp32 number's exponent counts from 112 below; infinity and NaN have the largest one.
  const Bits bits = __builtin_convertvector(x, Bits), size = (bits & 0x7FFF) << 13;
  const Vec y = size >= 0x7C00 << 13 ? (Vec)(size | 0x7F800000) : (Vec)size * 0x1p112f;
  return (Vec)((Bits)y | (bits & 0x8000) << 16);
#endif
}

// A row's K parts, the share that each has, and what is added to their sum.
template <class T>
struct Parts {
  const T* row;
  const float* share;
  const float* bias;
  int64_t count, words;

  const T* part(int64_t k) const { return row + k * words; }
  // The same place of the next row follows the last words of a part.
  void expect(int64_t i) const {
    i += i + AHEAD < words ? AHEAD : AHEAD - words + count * words;
    for (int64_t k = 0; k < count; ++k)
      for (int64_t line = 0; line < GROUP * LANES; line += 64 / sizeof(T)) __builtin_prefetch(part(k) + i + line);
  }
};

// Sums over the words that have been read, each word's weight being exp(x - top).
struct Sums {
  float top = -std::numeric_limits<float>::infinity();
  Vec whole{};
  Vec* mean;
  int64_t count;

  Sums(Vec* room, int64_t k) : mean(room), count(k) { std::fill(mean, mean + count, Vec{}); }

  void raise(Vec x) {
    float next = top;
    for (int64_t lane = 0; lane < LANES; ++lane) next = std::max(next, x[lane]);
    const Vec less = exp2(splat((top - next) * LOG2E));
    whole *= less;
    for (int64_t k = 0; k < count; ++k) mean[k] *= less;
    top = next;
  }
};

// Take `size` vectors of words from i on into the sums; only a single one may be short of lanes.
template <int size, class T>
inline void take(const Parts<T>& parts, int64_t i, int64_t lanes, Sums& sums) {
  Vec x[size];
  for (int g = 0; g < size; ++g) x[g] = load(parts.bias + i + g * LANES, lanes);
  for (int64_t k = 0; k < parts.count; ++k)
    for (int g = 0; g < size; ++g) x[g] += parts.share[k] * load(parts.part(k) + i + g * LANES, lanes);
  for (int64_t lane = lanes; lane < LANES; ++lane) x[0][lane] = -std::numeric_limits<float>::infinity();
  Vec largest = x[0];
  for (int g = 1; g < size; ++g) largest = x[g] > largest ? x[g] : largest;
  if (any(largest > sums.top)) sums.raise(largest);
  for (int g = 0; g < size; ++g) sums.whole += x[g] = exp2((x[g] - sums.top) * LOG2E);
  for (int64_t k = 0; k < parts.count; ++k) {
    Vec sum{};
    for (int g = 0; g < size; ++g) sum += x[g] * load(parts.part(k) + i + g * LANES, lanes);
    sums.mean[k] += sum;
  }
}

// The loss of one row; `slope` gets E_p[part k] - part k at the target. `room` holds K vectors.
template <class T>
float cross_entropy(const Parts<T>& parts, int64_t target, Vec* room, float* slope) {
  Sums sums(room, parts.count);
  int64_t i = 0;
  for (; i + GROUP * LANES <= parts.words; i += GROUP * LANES) {
    parts.expect(i);
    take<GROUP>(parts, i, LANES, sums);
  }
  for (; i < parts.words; i += LANES) take<1>(parts, i, std::min(LANES, parts.words - i), sums);
  const float whole = total(sums.whole);
  float wanted = parts.bias[target];
  for (int64_t k = 0; k < parts.count; ++k) {
    const float part = load(parts.part(k) + target, 1)[0];
    wanted += parts.share[k] * part;
    slope[k] = total(sums.mean[k]) / whole - part;
  }
  return std::log(whole) + (sums.top - wanted);
}

// work(number{}) as `in_precision_of`, with fp16 too.
template <class F>
void in_any_precision_of(const Tensor& x, F work) {
  x.scalar_type() == torch::headeronly::ScalarType::Half ? work(Fp16{}) : in_precision_of(x, work);
}

std::tuple<Tensor, Tensor> blend_cross_entropy(const Tensor& logits, const Tensor& share, const Tensor& bias,
                                               const Tensor& target) {
  const int64_t rows = target.numel(), words = bias.numel();
  STD_TORCH_CHECK(logits.is_contiguous() && logits.dim() == 3 && logits.sizes()[0] == rows && logits.sizes()[2] == words,
                  "wanted contiguous logits (", rows, ", K, ", words, ")");
  STD_TORCH_CHECK(target.is_contiguous(), "wanted contiguous targets");
  const int64_t K = logits.sizes()[1];
  const float *shares = values(share, {rows, K}), *add = values(bias, {words});
  const int64_t* targets = target.const_data_ptr<int64_t>();
  for (int64_t s = 0; s < rows; ++s)
    STD_TORCH_CHECK(0 <= targets[s] && targets[s] < words, "target ", targets[s], " is none of ", words, " words");
  Tensor loss = make(logits, {rows}), slope = make(logits, {rows, K});
  float *losses = loss.mutable_data_ptr<float>(), *slopes = slope.mutable_data_ptr<float>();
  in_any_precision_of(logits, [&](auto number) {
    using T = decltype(number);
    const T* data = static_cast<const T*>(logits.const_data_ptr());
    torch::stable::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
      const Buffer room(K);
      for (int64_t s = begin; s < end; ++s) {
        const Parts<T> parts{data + s * K * words, shares + s * K, add, K, words};
        losses[s] = cross_entropy(parts, targets[s], room, slopes + s * K);
      }
    });
  });
  return {loss, slope};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nano_think, m) {
  m.def("blend_cross_entropy(Tensor logits, Tensor share, Tensor bias, Tensor target) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(nano_think, CPU, m) { m.impl("blend_cross_entropy", TORCH_BOX(&blend_cross_entropy)); }
