// A head's queries or keys: normalised, then turned by RoPE.

#pragma once

#include "norm.h"

namespace {

// to = RoPE(w x / rms(x)), a head of 2 `half` channels, by one position's cosines and sines; without w, RoPE(x).
template <class T>
inline void turn_head(T* to, const T* x, const float* w, const float* cos, const float* sin, int64_t half, float eps) {
  const float scale = w ? inverse_root(dot(x, x, 2 * half), 2 * half, eps) : 1.0f;
  each_vector(half, [&](int64_t i, int64_t count) {
    const Vec cosine = load(cos + i, count), sine = load(sin + i, count);
    Vec first = load(x + i, count) * scale, second = load(x + half + i, count) * scale;
    if (w) first *= load(w + i, count), second *= load(w + half + i, count);
    store(to + i, first * cosine - second * sine, count);
    store(to + half + i, first * sine + second * cosine, count);
  });
}

}  // namespace
