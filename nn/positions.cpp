#include "nn/positions.h"

#include <algorithm>
#include <cmath>

#include "autograd/ops.h"

namespace facet {

Tensor sinusoidal_positions(int64_t positions, int64_t width, double base, DType dtype) {
  if (positions < 0 || width < 2 || width % 2 != 0 || !(base > 0))
    fail(Kind::usage, "sinusoidal_positions: {} positions of width {} with base {}; expected an even width and a positive base", positions, width, base);
  std::vector<double> table;
  table.reserve(static_cast<size_t>(positions * width));
  for (int64_t p = 0; p < positions; ++p)
    for (int64_t i = 0; i < width; i += 2) {
      const double angle = static_cast<double>(p) * std::pow(base, -static_cast<double>(i) / static_cast<double>(width));
      table.push_back(std::sin(angle));
      table.push_back(std::cos(angle));
    }
  return Tensor::from(table, {positions, width}).to(dtype);
}

LearnedPositions::LearnedPositions(int64_t positions, int64_t width, DType dtype) : weight(Tensor::zeros({positions, width}, dtype)) {}

Tensor LearnedPositions::operator()(const Tensor& x, const Tensor& positions) const {
  const Tensor ids = positions.clone();
  int32_t* id = ids.out().as<int32_t>();
  const int64_t rows = weight.value().dim(0);
  for (int64_t i = 0; i < ids.numel(); ++i) {
    if (id[i] >= rows) fail(Kind::usage, "positions: {} has no row, {} are learned", id[i], rows);
    id[i] = std::max(0, id[i]);
  }
  return x + embedding(ids.to(x.device()), weight.value(), 1, x.dtype());
}

std::string LearnedPositions::describe() const {
  return fmt::format("LearnedPositions {} x {}", weight.value().dim(0), weight.value().dim(1));
}

}  // namespace facet
