// Numbers that several lessons measure with.
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "autograd/tape.h"
#include "notebooks-cpp/nb.hpp"
#include "tensor/rng.h"

namespace nb {

/// Standard normal numbers, f32, where --device says.
inline facet::Tensor gaussian(uint64_t seed, const facet::Shape& shape) {
  return facet::normal(facet::key(seed), shape, facet::DType::f32, device());
}
/// The same in f64, which lives on the CPU.
inline facet::Tensor gaussian64(uint64_t seed, const facet::Shape& shape) {
  return facet::normal(facet::key(seed), shape).to(facet::DType::f64);
}
/// f32 numbers that bf16 can hold.
inline facet::Tensor rounded(const facet::Tensor& x) { return x.detach().to(facet::DType::bf16).to(facet::DType::f32); }

/// Over all elements, in double precision; shapes may differ. NaN anywhere gives NaN.
inline double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = a.size() == b.size() ? 0 : std::nan("");
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    if (const double d = std::abs(a[i] - b[i]); !(d <= worst)) worst = d;
  return worst;
}
inline double largest_difference(const facet::Tensor& a, const facet::Tensor& b) {
  return largest_difference(a.to_vector(), b.to_vector());
}

/// How far `found` is from `exact`, in units of the last of `bits` bits of `exact`: 24 for f32, 8 for bf16.
inline double ulps(double found, double exact, int bits = 24) {
  return std::abs(found - exact) / std::ldexp(1.0, std::ilogb(exact) - (bits - 1));
}

/// The gradient of the number f(at), f64, by central differences and by the tape: their largest difference (lesson 01).
inline double slope_error(const std::function<facet::Tensor(const facet::Tensor&)>& f, const facet::Tensor& at) {
  const facet::Tensor x = facet::leaf(at);
  facet::backward(f(x));
  const std::vector<double> values = at.to_vector(), slopes = facet::grad_of(x).to_vector();
  double worst = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const auto nudged = [&](double h) {
      std::vector<double> v = values;
      v[i] += h;
      return f(facet::Tensor::from(v, at.shape())).item();
    };
    worst = std::max(worst, std::abs((nudged(1e-5) - nudged(-1e-5)) / 2e-5 - slopes[i]));
  }
  return worst;
}

}  // namespace nb
