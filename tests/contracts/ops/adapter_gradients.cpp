#include "tensor/kernels/adapter_gradients.h"

#include "autograd/ops.h"
#include "tensor/kernels/copy.h"
#include "tests/contracts/ops/list.h"

namespace facet::test {
namespace {

constexpr double scale = 0.75;

// dt behind the rows of dy, in one buffer, as a joined gradient has it; dB is added to what is there.
Tensors fused(const Tensors& x) {
  const Tensor &wide = x[0], &b = x[1], &t = x[2];
  const int64_t n = wide.dim(0), O = b.dim(0), rank = b.dim(1), first = (wide.dim(1) - O) / 8 * 8;
  const int64_t behind = (wide.dim(1) + 7) / 8 * 8;
  const DType dtype = wide.dtype();
  const Device there = wide.device();
  const Tensor buffer = Tensor::zeros({n, behind + (rank + 7) / 8 * 8}, dtype, there);
  const Tensor dy = buffer.slice(1, first, first + O), dt = buffer.slice(1, behind, behind + rank);
  copy(wide.slice(1, first, first + O).view(), dy.out());
  const Tensor db = Tensor::full({O, rank}, 0.5, acc_dtype(dtype), there);
  adapter_gradients(dy.view(), b.view(), t.view(), scale, dt.out(), db.out(true));
  return {dt, db};
}
Tensors composite(const Tensors& x) {
  const Tensor &b = x[1], &t = x[2];
  const int64_t O = b.dim(0), first = (x[0].dim(1) - O) / 8 * 8;
  const Tensor dy = slice(x[0], 1, first, first + O);
  return {mul(matmul(dy, b), scale), add(matmul(transpose(dy, 0, 1), t), 0.5)};
}

}  // namespace

Contracts adapter_gradients_contracts() {
  // Ranks as adapters have them; rows and columns below, at and beyond the tiles of the GPU.
  struct Size {
    int64_t rows, columns, beside, rank;  // beside: columns of the gradient that other terms have
  };
  static constexpr Size sizes[] = {{1, 24, 0, 8},     {17, 24, 8, 4},    {130, 1152, 0, 8},  {5, 1, 3, 1},     {130, 136, 16, 16}, {64, 128, 8, 64},
                                   {65, 200, 40, 48}, {200, 264, 0, 16}, {33, 1160, 24, 24}, {3, 31, 2, 5},    {300, 64, 64, 8},   {19, 520, 8, 63},
                                   {40, 96, 0, 65},   {0, 8, 0, 8},      {129, 56, 0, 1},    {77, 200, 10, 16}};
  Contract c;
  c.name = "adapter_gradients";
  c.samples = std::size(sizes);
  c.inputs = [](Random& r, int sample) -> Tensors {
    const Size& s = sizes[sample];
    const auto layout = [&](int i) { return sample % 4 == 3 ? all_layouts[static_cast<size_t>(sample + i) % 4] : Layout::dense; };
    return {r.normal({s.rows, s.columns + s.beside}), with_layout(r.normal({s.columns, s.rank}), layout(0)), with_layout(r.normal({s.rows, s.rank}), layout(1))};
  };
  c.fused = fused;
  c.composite = composite;
  c.differentiable = false;  // it is a gradient itself
  return {c};
}

}  // namespace facet::test
