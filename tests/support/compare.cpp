#include "tests/support/compare.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <ostream>

namespace facet::test {

std::ostream& operator<<(std::ostream& s, const Comparison& c) { return s << (c.ok ? "ok" : c.message); }

namespace {
Comparison different(std::string message) { return {false, std::move(message)}; }

Comparison same_shape(const Tensor& a, const Tensor& b) {
  if (!a || !b) return different(fmt::format("{} tensor is absent", !a && !b ? "each" : !a ? "the first" : "the second"));
  if (!(a.shape() == b.shape())) return different(fmt::format("shapes {} and {}", to_string(a.shape()), to_string(b.shape())));
  return {};
}

std::string position(const Shape& shape, int64_t flat) {
  Shape index = shape;
  for (int i = shape.rank - 1; i >= 0; --i) {
    index.dim[i] = flat % shape.dim[i];
    flat /= shape.dim[i];
  }
  return to_string(index);
}

// 0 where both are the same number, NaN or infinity; infinite where only one is finite.
double distance(double a, double b) {
  if (a == b || (std::isnan(a) && std::isnan(b))) return 0;
  return std::isfinite(a) && std::isfinite(b) ? std::abs(a - b) : INFINITY;
}

std::string describe(const Shape& shape, int64_t i, double a, double b) {
  return fmt::format("at {}: {:.17g} against {:.17g}, difference {:.3g}", position(shape, i), a, b, a - b);
}

// Floating bits as integers whose order is that of the numbers.
int64_t ordered(const Tensor& t, int64_t i) {
  switch (t.dtype()) {
    case DType::f64: {
      const int64_t u = std::bit_cast<int64_t>(t.data<double>()[i]);
      return u < 0 ? INT64_MIN - u : u;
    }
    case DType::f32: {
      const int32_t u = std::bit_cast<int32_t>(t.data<float>()[i]);
      return u < 0 ? int64_t{INT32_MIN} - u : u;
    }
    case DType::bf16: {
      const int16_t u = static_cast<int16_t>(t.data<bf16>()[i].bits);
      return u < 0 ? int64_t{INT16_MIN} - u : u;
    }
    default: fail(Kind::usage, "max_ulp: {} has no units in the last place", name_of(t.dtype()));
  }
}
}  // namespace

Comparison close(const Tensor& a, const Tensor& b, double rtol, double atol) {
  if (Comparison c = same_shape(a, b); !c) return c;
  const std::vector<double> va = a.to_vector(), vb = b.to_vector();
  double worst = 0;
  int64_t where = -1, bad = 0;
  for (size_t i = 0; i < va.size(); ++i) {
    const double d = distance(va[i], vb[i]);
    if (d == 0) continue;
    const double excess = d / (atol + rtol * std::max(std::abs(va[i]), std::abs(vb[i])));
    const double limit = std::isfinite(excess) ? excess : INFINITY;
    bad += limit > 1;
    if (limit > worst) {
      worst = limit;
      where = static_cast<int64_t>(i);
    }
  }
  if (worst <= 1) return {};
  return different(fmt::format("{} of {} elements of {} beyond rtol {:g}, atol {:g}; worst {} ({:.3g} times the tolerance)", bad,
                               va.size(), to_string(a.shape()), rtol, atol, describe(a.shape(), where, va[where], vb[where]), worst));
}

double nmse(const Tensor& a, const Tensor& reference) {
  if (!same_shape(a, reference)) return INFINITY;
  const std::vector<double> va = a.to_vector(), vb = reference.to_vector();
  double error = 0, power = 0;
  for (size_t i = 0; i < va.size(); ++i) {
    const double d = distance(va[i], vb[i]);
    error += d * d;
    if (std::isfinite(vb[i])) power += vb[i] * vb[i];
  }
  return error == 0 ? 0 : error / power;
}

Comparison nmse_within(const Tensor& a, const Tensor& reference, double limit) {
  if (Comparison c = same_shape(a, reference); !c) return c;
  const double e = nmse(a, reference);
  if (e <= limit) return {};
  return different(fmt::format("NMSE {:.3g} > {:g}; {}", e, limit, close(a, reference, 0, 0).message));
}

Comparison bitwise_equal(const Tensor& a, const Tensor& b) {
  if (Comparison c = same_shape(a, b); !c) return c;
  if (a.dtype() != b.dtype()) return different(fmt::format("dtypes {} and {}", name_of(a.dtype()), name_of(b.dtype())));
  const Tensor da = a.detach().dense(), db = b.detach().dense();
  const int64_t bytes = size_of(a.dtype());
  const char *pa = static_cast<const char*>(da.view().data), *pb = static_cast<const char*>(db.view().data);
  if (da.numel() == 0 || std::memcmp(pa, pb, static_cast<size_t>(da.numel() * bytes)) == 0) return {};
  int64_t first = -1, bad = 0;
  for (int64_t i = 0; i < da.numel(); ++i) {
    if (std::memcmp(pa + i * bytes, pb + i * bytes, static_cast<size_t>(bytes)) == 0) continue;
    if (first < 0) first = i;
    ++bad;
  }
  return different(fmt::format("{} of {} elements differ in their bits; first {}", bad, da.numel(),
                               describe(a.shape(), first, da.to_vector()[first], db.to_vector()[first])));
}

int64_t max_ulp(const Tensor& a, const Tensor& b) {
  const Tensor da = a.detach().dense(), db = b.detach().dense();
  int64_t worst = 0;
  for (int64_t i = 0; i < da.numel(); ++i) worst = std::max(worst, std::abs(ordered(da, i) - ordered(db, i)));
  return worst;
}

}  // namespace facet::test
