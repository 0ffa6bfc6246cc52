#include "tests/contracts/sizes.h"

#include <cmath>
#include <memory>
#include <tuple>

#include "autograd/inference_ops.h"
#include "autograd/joined_ops.h"
#include "autograd/ops.h"
#include "tensor/kernels/adapter_gradients.h"
#include "tensor/kernels/logit_rows.h"
#include "tensor/kernels/sample.h"
#include "tensor/rope_table.h"
#include "tests/support/composite_cross_entropy.h"

namespace facet::test {
namespace {

using Inputs = std::function<Tensors(Random&, int)>;

Contract contract(const Sizes& s, const std::string& name, Arithmetic kind, Inputs inputs, Function fused) {
  Contract c;
  c.name = s.name + ": " + name;
  c.page = "sizes";
  c.samples = 1;
  c.kind = kind;
  c.inputs = std::move(inputs);
  c.fused = std::move(fused);
  return c;
}

// Weights of a product over `in` terms of size one, whose results are of size one.
Tensor weight(Random& r, int64_t out, int64_t in) { return r.normal({out, in}, DType::f64, 1 / std::sqrt(static_cast<double>(in))); }

Contracts products(const Sizes& s) {
  const auto one = [](const Tensors& x) { return linear(x[0], x[1]); };
  const auto of = [](int64_t rows, int64_t in, int64_t out) {
    return [=](Random& r, int) -> Tensors { return {r.normal({rows, in}), weight(r, out, in)}; };
  };
  const int64_t heads = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  Contracts list;
  list.push_back(contract(s, "gate", Arithmetic::sums, of(s.tokens, s.width, s.hidden), one));
  list.push_back(contract(s, "down", Arithmetic::sums, of(s.tokens, s.hidden, s.width), one));
  list.push_back(contract(s, "q, k and v in one product", Arithmetic::sums, of(s.tokens, s.width, heads + 2 * kv), [=](const Tensors& x) {
    const Tensor w[] = {slice(x[1], 0, 0, heads), slice(x[1], 0, heads, heads + kv), slice(x[1], 0, heads + kv, heads + 2 * kv)};
    return linear_joined(x[0], w);
  }));
  list.push_back(contract(s, "bf16 weights under f32", Arithmetic::sums,
                          [=](Random& r, int) -> Tensors { return {r.normal({s.tokens, s.width}), weight(r, heads, s.width).to(DType::bf16)}; }, one));
  list.back().dtypes = {DType::f32};
  list.back().gradcheck.fixed = {1};
  for (const int64_t rows : {1, 16, 64})  // of decoding
    list.push_back(contract(s, "down, " + std::to_string(rows) + " rows", Arithmetic::sums, of(rows, s.hidden, s.width), one));
  for (const auto& [name, out, rank] : {std::tuple{"q, k and v", heads + 2 * kv, int64_t{16}}, {"gate and up", 2 * s.hidden, int64_t{8}}}) {
    list.push_back(contract(s, std::string("an adapter's gradients, ") + name, Arithmetic::sums,
                            [=](Random& r, int) -> Tensors { return {r.normal({s.tokens, out}), weight(r, rank, out).transpose(0, 1).clone(), r.normal({s.tokens, rank})}; },
                            [](const Tensors& x) {
                              const Tensor dt = Tensor::empty({x[0].dim(0), x[1].dim(1)}, x[0].dtype(), x[0].device());
                              const Tensor db = Tensor::empty(x[1].shape(), acc_dtype(x[0].dtype()), x[0].device());
                              adapter_gradients(x[0].view(), x[1].view(), x[2].view(), 0.5, dt.out(), db.out());
                              return Tensors{dt, db};
                            }));
    list.back().differentiable = false;
  }
  for (const int64_t rows : {int64_t{1}, s.tokens}) {
    list.push_back(contract(s, "gate, up and geglu of " + std::to_string(rows) + " rows", Arithmetic::sums,
                            [=](Random& r, int) -> Tensors { return {r.normal({rows, s.width}), weight(r, s.hidden, s.width), weight(r, s.hidden, s.width)}; },
                            [](const Tensors& x) { return linear_geglu(x[0], x[1], x[2]); }));
    list.back().differentiable = false;
  }
  return list;
}

Contracts rows(const Sizes& s) {
  const Shape row{s.tokens, s.width}, hidden{s.tokens, s.hidden};
  const auto table = std::make_shared<RopeTable>(s.head_dim, 1e4);
  Contracts list;
  list.push_back(contract(s, "rms_norm", Arithmetic::sums,
                          [=](Random& r, int) -> Tensors { return {r.normal(row), r.normal({s.width}, DType::f64, 0.3)}; },
                          [](const Tensors& x) { return rms_norm(x[0], x[1], 1e-6); }));
  list.push_back(contract(s, "norm, sum and norm", Arithmetic::sums,
                          [=](Random& r, int) -> Tensors {
                            return {r.normal(row), r.normal(row), r.normal({s.width}, DType::f64, 0.3), r.normal({s.width}, DType::f64, 0.3)};
                          },
                          [](const Tensors& x) {
                            const SumNorm y = norm_add_norm(x[0], x[1], x[2], x[3], 1e-6);
                            return Tensors{y.sum, y.norm};
                          }));
  list.push_back(contract(s, "geglu", Arithmetic::elementwise,
                          [=](Random& r, int) -> Tensors { return {r.normal(hidden, DType::f64, 2), r.normal(hidden)}; },
                          [](const Tensors& x) { return geglu(x[0], x[1]); }));
  list.push_back(contract(s, "norm_rope", Arithmetic::sums,
                          [=](Random& r, int) -> Tensors {
                            return {r.normal({1, s.tokens, s.heads, s.head_dim}), r.ids({1, s.tokens}, s.tokens), r.normal({s.head_dim}, DType::f64, 0.3)};
                          },
                          [=](const Tensors& x) {
                            if (x[0].device() == Device::gpu) table->reserve(s.tokens);
                            return norm_rope(x[0], x[2], 1e-6, x[1], *table);
                          }));
  return list;
}

// A whole vocabulary; rows are narrow, since the widths are those of products().
Contracts words(const Sizes& s) {
  const int64_t narrow = 64, n = std::min<int64_t>(s.tokens, 256);
  Contracts list;
  list.push_back(contract(s, "embedding", Arithmetic::elementwise,
                          [=](Random& r, int) -> Tensors { return {r.ids({s.tokens}, s.vocab), r.normal({s.vocab, narrow})}; },
                          [](const Tensors& x) { return embedding(x[0], x[1], 8, x[1].dtype()); }));
  const Inputs head = [=](Random& r, int) -> Tensors { return {r.normal({n, narrow}), weight(r, s.vocab, narrow), labels_of(r, {n}, s.vocab)}; };
  list.push_back(contract(s, "linear_cross_entropy", Arithmetic::head, head, [](const Tensors& x) { return linear_cross_entropy(x[0], x[1], x[2]); }));
  list.push_back(contract(s, "linear_log_probs", Arithmetic::head, head, [](const Tensors& x) { return linear_log_probs(x[0], x[1], x[2]); }));
  for (size_t i = list.size() - 2; i < list.size(); ++i) list[i].host = {2};

  constexpr int64_t n_rows = 8;
  for (const RankFilters& f : {RankFilters{}, {40, 1, 0}, {0, 0.95, 0}, {64, 0.95, 0.01}, {0, 1, 0.05}}) {
    Contract c = contract(
        s, fmt::format("draws, top_k {}, top_p {}, min_p {}", f.top_k, f.top_p, f.min_p), Arithmetic::none,
        [=](Random& r, int) -> Tensors {  // scores, what the CPU's logit_stats says of them, and numbers in [0, 1)
          const Tensor z = r.normal({n_rows, s.vocab}, DType::f32, 3), stats = Tensor::empty({n_rows, 5});
          logit_stats(z.out(), Tensor::zeros({n_rows}, DType::i32).view(), 0, 1, false, stats.out());
          return {z, stats, r.uniform({n_rows}, 0, 0.999, DType::f32)};
        },
        [=](const Tensors& x) {
          const Device there = x[0].device();
          const Tensor drawn = Tensor::empty({n_rows}, DType::i32, there), first = Tensor::empty({n_rows}, DType::i32, there);
          draw_ranked(x[0].view(), x[1].view(), x[2].view(), f, drawn.out());
          first_largest(x[0].view(), x[1].view(), first.out());
          return Tensors{drawn, first};
        });
    c.differentiable = false;
    c.dtypes = {DType::f32};
    list.push_back(std::move(c));
  }
  return list;
}

// Who sees whom: q, k, v, then the mask.
enum class Parts { none, documents, branches };
struct Masked {
  const char* name;
  int64_t rows, queries, keys, window;
  Parts parts = Parts::none;
  double cap = 0;
  bool plain = false;
};
Contract attention_contract(const Sizes& s, const Masked& m) {
  Contract c = contract(
      s, std::string("attention, ") + m.name, Arithmetic::attention,
      [=](Random& r, int) -> Tensors {
        std::vector<int32_t> qp, kp, qs, ks;
        for (int64_t b = 0; b < m.rows; ++b)
          for (int64_t j = 0; j < m.keys; ++j) {
            const int64_t part = j * 3 / m.keys, begin = (part * m.keys + 2) / 3;
            // Documents begin anew; branches go on where the trunk, the first third, ends.
            const int64_t position = m.parts == Parts::none ? j : j - begin + (m.parts == Parts::branches && part > 0 ? (m.keys + 2) / 3 : 0);
            const int64_t segment = m.parts == Parts::none ? 0 : part + (m.parts == Parts::branches ? 65536 * (1 + b) : 0);
            kp.push_back(static_cast<int32_t>(position)), ks.push_back(static_cast<int32_t>(segment));
            if (j >= m.keys - m.queries) qp.push_back(kp.back()), qs.push_back(ks.back());
          }
        const auto ints = [&](const std::vector<int32_t>& v, int64_t n) { return Tensor::from(v, {m.rows, n}); };
        return {r.normal({m.rows, m.queries, s.heads, s.head_dim}), r.normal({m.rows, m.keys, s.kv_heads, s.head_dim}),
                r.normal({m.rows, m.keys, s.kv_heads, s.head_dim}), ints(qp, m.queries), ints(kp, m.keys), ints(qs, m.queries), ints(ks, m.keys)};
      },
      [=](const Tensors& x) {
        AttentionMask mask;
        mask.q_positions = x[3], mask.k_positions = x[4];
        if (m.parts != Parts::none) mask.q_segments = x[5], mask.k_segments = x[6];
        mask.window = m.window, mask.plain = m.plain;
        return attention(x[0], x[1], x[2], mask, 1 / std::sqrt(static_cast<double>(s.head_dim)), m.cap);
      });
  c.differentiable = m.queries == m.keys;
  return c;
}

}  // namespace

Contracts attention_at(const Sizes& s) {
  const int64_t T = s.tokens;
  Contracts list;
  for (const Masked& m : {Masked{"whole rows", 2, T, T, 0}, {"whole rows in a window, by a library if faster", 2, T, T, s.window, Parts::none, 0, true},
                          {"ragged rows in a window", 1, T - 3, T - 3, s.window}, {"documents in a window, capped", 2, T, T, s.window, Parts::documents, 20},
                          {"branches", 2, T, T, 0, Parts::branches}, {"one query over a cache", 3, 1, T, s.window}, {"seven queries over a cache", 2, 7, T, 0}})
    list.push_back(attention_contract(s, m));
  return list;
}

Contracts contracts_at(const Sizes& s) {
  Contracts all;
  for (const auto& family : {products, rows, attention_at, words})
    for (Contract& c : family(s)) all.push_back(std::move(c));
  return all;
}

}  // namespace facet::test
