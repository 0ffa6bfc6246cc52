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

/// The columns of y that belong to each of several results.
pool_vector<Tensor> parts(Tensor y, std::span<const int64_t> sizes) {
  pool_vector<Tensor> list;
  if (sizes.size() == 1) list.push_back(std::move(y));
  else
    for (Tensor& part : split(y, {sizes.begin(), sizes.end()}, -1)) list.push_back(std::move(part));
  return list;
}

/// What A makes of x for each adapter that sees all of it: one product where these A lie side by side.
pool_vector<Tensor> narrowed(const Tensor& x, std::span<const Weight* const> weights) {
  pool_vector<Tensor> a;
  pool_vector<int64_t> ranks;
  for (const Weight* m : weights)
    if (const LoraFactors* f = m->adapter(); f && f->sees_all()) a.push_back(f->a.value()), ranks.push_back(f->rank());
  return a.empty() ? pool_vector<Tensor>() : parts(linear_joined(x, a), ranks);
}

// x [W_0; W_1; ...]^T, and in each adapted weight's columns s t B^T, t = x A^T. The base's product is recorded first, so that backward writes
// dx of the adapters first: in bf16 it is the small part that is rounded on its own, and the base's product adds to it.
// An adapter of DoRA that sees not all of x is left to combine(), since what it scales is another product of the base.
Tensor product(const Tensor& x, std::span<const Weight* const> weights) {
  Tensor y = linear_joined(x, matrices(weights));
  pool_vector<Tensor> seeing_all = narrowed(x, weights);
  pool_vector<ColumnTerm> terms;
  int64_t column = 0;
  size_t next = 0;
  for (const Weight* m : weights) {
    if (const LoraFactors* f = m->adapter(); f && (f->sees_all() || !f->magnitude.value()))
      terms.push_back({column, f->sees_all() ? std::move(seeing_all[next++]) : f->narrowed(x), f->b.value(), f->scale});
    column += m->outputs();
  }
  return terms.empty() ? y : add_linear_columns(std::move(y), terms);
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
