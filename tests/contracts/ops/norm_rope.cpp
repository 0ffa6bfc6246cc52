#include <cmath>
#include <map>

#include "autograd/inference_ops.h"
#include "autograd/ops.h"
#include "tests/contracts/ops/list.h"

namespace facet::test {
namespace {

Tensor slow(const Tensor& x, const Tensor& w, double eps, const Tensor& positions, double base, double factor) {
  const std::vector<double> vx = x.to_vector(), vp = positions.to_vector();
  const std::vector<double> vw = w ? w.to_vector() : std::vector<double>(x.dim(3), 0);
  std::vector<double> y(vx.size());
  const int64_t h = x.dim(2), d = x.dim(3);
  for (int64_t row = 0; row < x.shape().rows(); ++row) {
    const double p = std::max(0.0, vp[row / h]);
    double sum = 0;
    for (int64_t i = 0; i < d; ++i) sum += vx[row * d + i] * vx[row * d + i];
    const double root = w ? 1 / std::sqrt(sum / double(d) + eps) : 1;
    auto n = [&](int64_t i) { return vx[row * d + i] * root * (1 + vw[i]); };
    for (int64_t i = 0; i < d / 2; ++i) {
      const double angle = p / std::pow(base, 2.0 * double(i) / double(d)) / factor;
      y[row * d + i] = n(i) * std::cos(angle) - n(i + d / 2) * std::sin(angle);
      y[row * d + i + d / 2] = n(i + d / 2) * std::cos(angle) + n(i) * std::sin(angle);
    }
  }
  return Tensor::from(y, x.shape());
}

// x as one of the heads' windows of a fused q, k, v projection, or another layout.
Tensor input(Random& r, int sample, int64_t b, int64_t t, int64_t h, int64_t d) {
  if (sample % 3 == 1) return r.normal({b, t, h + 2, d}).slice(2, 1, h + 1);
  return with_layout(r.normal({b, t, h, d}), all_layouts[sample % 5]);
}

const RopeTable& table_for(int64_t head_dim) {  // one per size: every table computes its own pages
  static std::map<int64_t, RopeTable> tables;
  return tables.try_emplace(head_dim, head_dim, 1e4, 2).first->second;
}

constexpr int64_t most_positions = 900;

Contract contract(bool norm) {
  Contract c;
  c.name = norm ? "norm_rope" : "rope";
  c.samples = 17;
  c.inputs = [norm](Random& r, int sample) -> Tensors {
    const bool large = sample == 16;
    const int64_t b = large ? 2 : 1 + sample % 2, t = large ? 40 : 1 + sample % 4, h = 1 + sample % 3;
    const int64_t d = large ? 64 : 2 * awkward_size(sample);
    Tensor positions = r.ids({b, t}, most_positions);
    if (sample % 4 == 2) positions.out().as<int32_t>()[0] = -1;
    Tensors x{input(r, sample, b, t, h, d), positions};
    if (norm) x.push_back(r.normal({d}, DType::f64, 0.3));
    return x;
  };
  c.fused = [](const Tensors& x) {
    const RopeTable& table = table_for(x[0].dim(3));
    if (x[0].device() == Device::gpu) table.reserve(most_positions);
    return norm_rope(x[0], x.size() > 2 ? x[2] : Tensor(), 1e-6, x[1], table);
  };
  c.composite = [](const Tensors& x) { return slow(x[0], x.size() > 2 ? x[2] : Tensor(), 1e-6, x[1], 1e4, 2); };
  return c;
}

// Some heads of a row that is split: dx goes straight into the row's gradient, between heads that get none.
Contract contract_of_part(bool norm) {
  Contract c = contract(norm);
  c.name += ": part of a row";
  c.inputs = [inputs = c.inputs](Random& r, int sample) -> Tensors {
    Tensors x = inputs(r, sample);
    const Shape s = x[0].shape();
    x[0] = r.normal({s[0], s[1], s[2] + 3, s[3]});
    return x;
  };
  const auto of_part = [](const Function& f) {
    return [f](const Tensors& x) {
      Tensors y = x;
      y[0] = split(x[0], {1, x[0].dim(2) - 3, 2}, 2)[1];
      return f(y);
    };
  };
  c.fused = of_part(c.fused);
  c.composite = of_part(c.composite);
  return c;
}

// q, k, v, positions [, w_q, w_k] -> turned q, then the rings of keys, values and positions, which start empty.
constexpr int64_t ring_length = 5;

Tensors rings_like(const Tensor& k) {
  const Shape ring{k.dim(0), ring_length, k.dim(2), k.dim(3)};
  const Device there = k.device();
  return {Tensor::zeros(ring, k.dtype(), there), Tensor::zeros(ring, k.dtype(), there), Tensor::full({k.dim(0), ring_length}, -1, DType::i32).to(there)};
}

Tensors slow_write(const Tensors& x) {
  const Tensor none;
  const bool norm = x.size() > 4;
  const Tensor k = slow(x[1], norm ? x[5] : none, 1e-6, x[3], 1e4, 2);
  Tensors y = rings_like(k);
  for (int64_t b = 0; b < k.dim(0); ++b)
    for (int64_t t = 0; t < k.dim(1); ++t) {
      const auto p = static_cast<int32_t>(x[3].at({b, t}));
      if (p < 0) continue;
      const auto slot = [&](const Tensor& ring) { return ring.slice(0, b, b + 1).slice(1, p % ring_length, p % ring_length + 1); };
      slot(y[0]).set(k.slice(0, b, b + 1).slice(1, t, t + 1).dense());
      slot(y[1]).set(x[2].slice(0, b, b + 1).slice(1, t, t + 1).dense());
      y[2].out().as<int32_t>()[b * ring_length + p % ring_length] = p;
    }
  y.insert(y.begin(), slow(x[0], norm ? x[4] : none, 1e-6, x[3], 1e4, 2));
  return y;
}

Contract write_contract(bool norm) {
  Contract c;
  c.name = norm ? "norm_rope_write" : "norm_rope_write: no norm";
  c.samples = 17;
  c.differentiable = false;
  c.inputs = [norm](Random& r, int sample) -> Tensors {
    const bool large = sample == 16;
    const int64_t b = 1 + sample % 3, t = 1 + sample % ring_length, k = 1 + sample % 2, h = k * (1 + sample % 4), d = large ? 256 : 2 * awkward_size(sample);
    Tensor positions = Tensor::empty({b, t}, DType::i32);
    for (int64_t i = 0; i < b; ++i) {
      const int64_t first = r.below(most_positions - t);
      for (int64_t j = 0; j < t; ++j)  // padding on the left
        positions.out().as<int32_t>()[i * t + j] = sample % 4 == 2 && i + 1 == b && j == 0 ? -1 : static_cast<int32_t>(first + j);
    }
    Tensors x;
    if (sample % 3 == 2) {  // windows of one fused projection
      const Tensor all = r.normal({b, t, h + 2 * k, d});
      x = {all.slice(2, 0, h), all.slice(2, h, h + k), all.slice(2, h + k, h + 2 * k), positions};
    } else {
      x = {input(r, sample, b, t, h, d), input(r, sample + 1, b, t, k, d), input(r, sample + 2, b, t, k, d), positions};
    }
    if (norm) x.push_back(r.normal({d}, DType::f64, 0.3)), x.push_back(with_layout(r.normal({d}, DType::f64, 0.3), all_layouts[sample % 4]));
    return x;
  };
  c.fused = [norm](const Tensors& x) {
    const RopeTable& table = table_for(x[0].dim(3));
    if (x[0].device() == Device::gpu) table.reserve(most_positions);
    Tensors y = rings_like(x[1]);
    const Tensor none;
    const Tensor q = norm_rope_write({x[0], x[1], x[2], norm ? x[4] : none, norm ? x[5] : none}, 1e-6, x[3], table, {y[0], y[1], y[2]});
    y.insert(y.begin(), q);
    return y;
  };
  c.composite = slow_write;
  return c;
}

}  // namespace

Contracts norm_rope_contracts() {
  return {contract(true), contract(false), contract_of_part(true), contract_of_part(false), write_contract(true), write_contract(false)};
}

}  // namespace facet::test
