// Products of one input with several weights that lie side by side in memory (a model on a GPU has them so, LanguageModel::to): one product
// forward, one for dx, one for all dw. On a GPU that is worth having: k and v alone fill a tenth of its processors, and each term of dx would be
// added to an f32 sum in memory.
#pragma once
#include <span>

#include "autograd/tape.h"

namespace facet {

/// Whether matrices [O_i, I] are one matrix [O, I], O the sum of O_i: dense, each where the one before it ends.
bool side_by_side(std::span<const Tensor> w);

/// y = x [w_0; w_1; ...]^T: x [.., I], w_i [O_i, I] -> [.., O], the outputs of linear() in one row. The dtypes of linear(). Any weights: those
/// that are not side by side cost a product each, and so do the gradients of some that train beside others that do not.
Tensor linear_joined(const Tensor& x, std::span<const Tensor> w);

/// y[.., column : column + O] += scale x w^T: x [.., I], w [O, I].
struct ColumnTerm {
  int64_t column;
  Tensor x, w;
  double scale = 1;
};
/// y [.., C] with its terms, as add_linear() adds one to all columns: what adapters give to the outputs of linear_joined().
Tensor add_linear_columns(Tensor y, std::span<const ColumnTerm> terms);

/// geglu(x[.., :F], x[.., F:]): x [.., 2F] -> [.., F]. Its gradient is one tensor too, ready for the products behind it.
Tensor geglu_halves(const Tensor& x);

}  // namespace facet
