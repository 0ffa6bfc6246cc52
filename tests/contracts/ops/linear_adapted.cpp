#include "autograd/joined_ops.h"
#include "autograd/ops.h"
#include "tensor/rng.h"
#include "tests/contracts/ops/list.h"
#include "tests/support/composite_linear.h"

namespace facet::test {
namespace {

constexpr double scales[] = {1.75, 0.5};

/// Two adapters' factors: x[first] a_0 [r, I], b_0 [O, r], a_1, b_1.
std::vector<LowRankTerm> terms_of(const Tensors& x, size_t first, int64_t second_column, bool alike) {
  return {{0, x[first], x[first + 1], scales[0]}, {second_column, x[first + 2], x[first + 3], scales[alike ? 0 : 1]}};
}

/// In `gap` columns between the two there is no adapter.
Tensor slow(const Tensor& x, const Tensor& w, const Tensors& factors, size_t first, int64_t gap, bool alike) {
  const Tensor y = slow_linear(x, w);
  const auto part = [&](size_t i, double scale) { return mul(slow_linear(slow_linear(x, factors[i]), factors[i + 1]), scale); };
  Shape none = y.shape();
  none[-1] = gap;
  return add(y, concat({part(first, scales[0]), Tensor::zeros(none, y.dtype(), y.device()), part(first + 2, scales[alike ? 0 : 1])}, -1));
}

/// Weights that are what they are in every dtype.
Tensor constant(const Shape& s, DType dtype, Device device) {
  return mul(normal(Key{0, 7}, s), 0.25).to(DType::bf16).to(dtype).to(device);
}

}  // namespace

Contracts linear_adapted_contracts() {
  Contract c;
  c.name = "linear_adapted";
  c.samples = 13;
  c.bf16_nmse = 4e-5, c.bf16_grad_nmse = 2e-4;  // products of products, rounded between them
  c.inputs = [](Random& r, int s) -> Tensors {  // x, w_0, w_1, factors
    const int64_t in = awkward_size(s), first = awkward_size(s + 5), second = awkward_size(s + 2), rank = 1 + s % 9;
    const Shape lead = s % 3 == 0 ? Shape{1, in} : s % 3 == 1 ? Shape{2, 3, in} : Shape{19, in};
    return {with_layout(r.normal(lead), all_layouts[s % 5]), with_layout(r.normal({first, in}), all_layouts[s % 4]), r.normal({second, in}),
            r.normal({rank, in}), with_layout(r.normal({first, rank}), all_layouts[(s + 1) % 4]), with_layout(r.normal({rank + 1, in}), all_layouts[s % 3]),
            r.normal({second, rank + 1})};
  };
  c.fused = [](const Tensors& x) { return linear_adapted(x[0], std::span(x).subspan(1, 2), terms_of(x, 3, x[1].dim(0), x[3].dim(1) % 2)); };
  c.composite = [](const Tensors& x) { return slow(x[0], concat({x[1], x[2]}, 0), x, 3, 0, x[3].dim(1) % 2); };

  // As in a feed-forward block: x is a norm with room behind its rows, the weights are parts of a panel, dy comes from geglu.
  Contract panel;
  panel.name = "linear_adapted: in a panel";
  panel.samples = 9;
  panel.bf16_nmse = 2e-4, panel.bf16_grad_nmse = 2e-3;  // of norm, two products and geglu, each rounded
  panel.inputs = [](Random& r, int s) -> Tensors {  // x, w of the norm, factors
    const int64_t in = s == 8 ? 160 : 8 * (1 + s % 4), half = s == 8 ? 96 : 3 + s, rank = s == 8 ? 16 : 1 + s % 5;
    const Shape lead = s % 2 ? Shape{2, 9, in} : Shape{s == 8 ? 70 : 21, in};
    const int64_t first = half + s % 3, second = half - s % 3 - s % 2;  // of 2 half outputs
    return {r.normal(lead), r.normal({in}), r.normal({rank, in}), r.normal({first, rank}), r.normal({rank, in}), r.normal({second, rank})};
  };
  panel.fused = [](const Tensors& x) {
    const int64_t in = x[0].dim(-1), first = x[3].dim(0), second = x[5].dim(0), rank = x[2].dim(0), outputs = (first + second + 1) / 2 * 2, gap = outputs - first - second;
    const Tensor w = constant({outputs, in}, x[0].dtype(), x[0].device()), room = panel_for(outputs, in, 2 * rank, w.dtype(), w.device());
    const Tensor parts[] = {room.slice(0, 0, first + gap), room.slice(0, first + gap, outputs)};
    parts[0].set(w.slice(0, 0, first + gap)), parts[1].set(w.slice(0, first + gap, outputs));
    const Tensor h = with_room(room.room(), [&] { return rms_norm(x[0], x[1], 1e-6); });
    return geglu_halves(linear_adapted(h, parts, terms_of(x, 2, first + gap, in % 16), room));
  };
  panel.composite = [](const Tensors& x) {
    const int64_t in = x[0].dim(-1), first = x[3].dim(0), second = x[5].dim(0), outputs = (first + second + 1) / 2 * 2;
    const Tensor w = constant({outputs, in}, x[0].dtype(), x[0].device());
    const Tensor y = slow(rms_norm(x[0], x[1], 1e-6), w, x, 2, outputs - first - second, in % 16);
    return geglu(slice(y, -1, 0, outputs / 2), slice(y, -1, outputs / 2, outputs));
  };
  return {c, panel};
}

}  // namespace facet::test
