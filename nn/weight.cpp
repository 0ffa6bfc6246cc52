#include "nn/weight.h"

#include <algorithm>
#include <optional>

#include "autograd/joined_ops.h"
#include "autograd/ops.h"
#include "nn/lora_weight.h"
#include "tensor/gpu/side_by_side.h"

namespace facet {
namespace {

/// The matrices, where they are all there is but for adapters; else none.
pool_vector<Tensor> matrices(std::span<const Weight* const> weights) {
  pool_vector<Tensor> list;
  for (const Weight* m : weights) {
    const Tensor* matrix = m->matrix();
    if (!matrix) return {};
    list.push_back(*matrix);
  }
  return list;
}

/// The columns of y that belong to each weight.
pool_vector<Tensor> parts(Tensor y, std::span<const int64_t> sizes) {
  pool_vector<Tensor> list;
  if (sizes.size() == 1) list.push_back(std::move(y));
  else
    for (Tensor& part : split(y, {sizes.begin(), sizes.end()}, -1)) list.push_back(std::move(part));
  return list;
}

/// The panel that the weights lie in, if they do.
Tensor panel_of(std::span<const Weight* const> weights) {
  for (const Weight* m : weights)
    if (m->adapter()) return m->panel();
  return {};
}

// x [W_0; W_1; ...]^T, and in each adapted weight's columns s t B^T, t = x A^T. An adapter that sees not all of x adds its part afterwards; that of
// DoRA is left to combine(), since what it scales is another product of the base.
Tensor product(const Tensor& x, std::span<const Weight* const> weights) {
  pool_vector<LowRankTerm> seeing_all;
  pool_vector<ColumnTerm> others;
  int64_t column = 0;
  for (const Weight* m : weights) {
    const LoraFactors* f = m->adapter();
    if (f && f->sees_all()) seeing_all.push_back({column, f->a.value(), f->b.value(), f->scale});
    column += m->outputs();
  }
  Tensor y = linear_adapted(x, matrices(weights), seeing_all, panel_of(weights));
  column = 0;
  for (const Weight* m : weights) {  // recorded after the base's product, so that backward writes their dx first: in bf16 it is rounded on its own
    const LoraFactors* f = m->adapter();
    if (f && !f->sees_all() && !f->magnitude.value()) others.push_back({column, f->narrowed(x), f->b.value(), f->scale});
    column += m->outputs();
  }
  return others.empty() ? y : add_linear_columns(std::move(y), others);
}

// A GPU reads up to four weights in one kernel for so few rows (tensor/kernels/gemm.h): then A is better read beside its W.
constexpr int64_t few_rows = 16;

bool one_product(const Tensor& x, std::span<const Weight* const> weights) {
  const auto adapted = [](const Weight* m) { return m->adapter() != nullptr; };
  return joined(weights) && (x.shape().rows() > few_rows || std::none_of(weights.begin(), weights.end(), adapted));
}

bool scales_rows(const Weight* m) { return m->adapter() && m->adapter()->magnitude.value(); }

bool continues(const Tensor& a, const Tensor& b) { return a.rank() == 2 && b.rank() == 2 && a.dim(1) == b.dim(1) && a.dtype() == b.dtype(); }

}  // namespace

bool joined(std::span<const Weight* const> weights) {
  const pool_vector<Tensor> w = matrices(weights);
  return side_by_side(w) && w[0].device() == Device::gpu && (w.size() > 1 || weights[0]->adapter());
}

int64_t room_for(std::span<const Weight* const> weights) {
  const auto seen = [](const Weight* m) { return m->adapter() && m->adapter()->sees_all(); };
  return std::any_of(weights.begin(), weights.end(), seen) ? panel_of(weights).room() : 0;
}

Tensor apply_joined(const Tensor& x, std::span<const Weight* const> weights) {
  if (!one_product(x, weights) || std::any_of(weights.begin(), weights.end(), scales_rows)) return {};
  return product(x, weights);
}

pool_vector<Tensor> apply_together(const Tensor& x, std::span<const Weight* const> weights) {
  pool_vector<Tensor> y;
  if (one_product(x, weights)) {
    pool_vector<int64_t> sizes;
    for (const Weight* m : weights) sizes.push_back(m->outputs());
    y = parts(product(x, weights), sizes);
    for (size_t i = 0; i < y.size(); ++i)
      if (const LoraFactors* f = weights[i]->adapter(); scales_rows(weights[i]))
        y[i] = f->sees_all() ? mul(y[i], row_factors(*weights[i]->matrix(), *f, y[i].dtype())) : weights[i]->combine(x, {&y[i], 1});
    return y;
  }
  pool_vector<Tensor> w;
  pool_vector<size_t> ends;
  for (const Weight* m : weights) {
    m->factors(w);
    ends.push_back(w.size());
  }
  pool_vector<Tensor> products = linear(x, w);
  size_t begin = 0;
  for (const Weight* m : weights) {
    const size_t end = ends[y.size()];
    y.push_back(m->combine(x, {products.data() + begin, end - begin}));
    begin = end;
  }
  return y;
}

void move_side_by_side(std::span<Parameter* const> list, Device device) {
  for (size_t i = 0; i < list.size();) {
    pool_vector<Tensor> run;
    size_t bytes = 0;
    do {
      run.push_back(list[i + run.size()]->value().detach());
      bytes += static_cast<size_t>(run.back().numel() * size_of(run.back().dtype()));
    } while (i + run.size() < list.size() && continues(run[0], list[i + run.size()]->value()));
    const bool apart = device == Device::gpu && run.size() > 1 && !(run[0].device() == device && side_by_side(run));
    std::optional<gpu::SideBySide> row;
    if (apart) row.emplace(bytes);
    for (const Tensor& value : run) {
      const Tensor there = value.to(device);
      list[i]->reset(apart && there.shares_storage(value) ? value.clone() : there, list[i]->trains());
      ++i;
    }
  }
}

Tensor Weight::apply(const Tensor& x) const {
  const Weight* self[] = {this};
  return std::move(apply_together(x, self)[0]);
}

}  // namespace facet
