// Products of one input with several weights that lie side by side in memory (a model on a GPU has them so, LanguageModel::to): one product
// forward, one for dx, one for all dw. Adapters are part of these products. On a GPU that is worth having: k and v alone fill a tenth of its
// processors, and each term of dx would be added to an f32 sum in memory.
#pragma once
#include <span>

#include "autograd/tape.h"

namespace facet {

/// Whether matrices [O_i, I] are one matrix [O, I], O the sum of O_i: each where the one before it ends, their rows at one distance.
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

/// An adapter (Hu et al. 2021) of some columns: y[.., column : column + O] += scale (x a^T) b^T, a [r, I], b [O, r].
struct LowRankTerm {
  int64_t column;
  Tensor a, b;
  double scale = 1;
};
/// linear_joined(x, w) with adapters that lie in order of their columns, without overlap.
///
/// With t = [t_0, t_1, ...], t_i = scale_i x a_i^T, it is one product, [x t] [W B]^T, and so is its dx = [dy dt] [W; A], where there is room for
/// that: behind the rows of x (RowRoom) and of dy (made here), and in `panel`, made as panel_for() says, of which W must be rows and columns.
/// Then an adapter of rank r costs no pass over y, none over dx, and one over dy. Without room, t B^T and dt A are added by products of their own.
/// What lies in a panel besides W is written anew whenever it is read.
Tensor linear_adapted(const Tensor& x, std::span<const Tensor> w, std::span<const LowRankTerm> terms, const Tensor& panel = {});

/// A matrix [O + r, I] with room for r elements behind each row, for weights of O rows in all and adapters of r ranks in all. The weights take the
/// first O rows; the others are for A, the room is for B. There is so much more room that rows begin on 128 bytes where those of [O, I] did.
Tensor panel_for(int64_t outputs, int64_t inputs, int64_t ranks, DType, Device);

/// While one lives, what norms and geglu_halves make on a GPU has `room` elements behind each row (Tensor::with_room), for the linear_adapted that
/// reads it. 0: none.
class RowRoom {
 public:
  explicit RowRoom(int64_t room);
  ~RowRoom();
  RowRoom(const RowRoom&) = delete;

 private:
  int64_t before_;
};
/// f() with so much room.
template <class F>
auto with_room(int64_t room, F f) {
  const RowRoom scope(room);
  return f();
}

/// geglu(x[.., :F], x[.., F:]): x [.., 2F] -> [.., F]. Its gradient is one tensor too, ready for the products behind it.
Tensor geglu_halves(const Tensor& x);

}  // namespace facet
