// Are an op's gradients those of its values? Central differences in f64, plus everything a gradient must do besides being right.
//
//   gradcheck("mul", [](const Tensors& x) { return mul(x[0], x[1]); }, {a, b});
//
// f maps the inputs to one Tensor or several (Tensors, TopK-like results by hand). f64 inputs are differentiated, i32 inputs
// and those listed in `fixed` are constants. Inputs may be views: the numeric side uses dense copies of the same values.
#pragma once
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "autograd/tape.h"

namespace facet::test {

using Tensors = std::vector<Tensor>;

/// A function of tensors; anything that returns a Tensor or Tensors converts to it.
class Function {
 public:
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, Function> && std::is_invocable_v<F, const Tensors&>)
  Function(F f)
      : f_([f = std::move(f)](const Tensors& x) -> Tensors {
          if constexpr (std::is_same_v<std::invoke_result_t<F, const Tensors&>, Tensor>) return {f(x)};
          else return f(x);
        }) {}
  Function() = default;
  Tensors operator()(const Tensors& x) const { return f_(x); }
  explicit operator bool() const { return static_cast<bool>(f_); }

 private:
  std::function<Tensors(const Tensors&)> f_;
};

struct GradcheckOptions {
  std::vector<int> fixed;          ///< inputs that are constants
  std::vector<double> kinks;       ///< input values where f has no derivative: elements nearer than 1e-3 are moved away
  double step = 1e-5;
  double rtol = 1e-6, atol = 1e-8;
  int64_t full_jacobian = 4096;    ///< inputs x outputs up to which every element is checked; 8 random directions above
  bool twice_in_one = true;        ///< also call f with one tensor for two inputs of equal shape (off: f forbids it)
};

/// Runs all checks and returns what was wrong, one sentence each; empty when all is well.
std::vector<std::string> gradient_errors(const std::string& name, const Function& f, const Tensors& inputs,
                                         const GradcheckOptions& options = {});
/// The same as a Catch check.
void gradcheck(const std::string& name, const Function& f, const Tensors& inputs, const GradcheckOptions& options = {});

// ---- building blocks, for tests with other needs

/// A scalar whose gradient to y[i] is weights[i] (absent weights: nothing is sent to y[i]). Integer outputs must have none.
/// Of outputs on the GPU the value is not computed.
Tensor weighted_sum(const Tensors& y, const Tensors& weights);
/// Gradients of sum_i <weights[i], f(x)[i]>; absent for inputs that are not floating or listed in `fixed`.
Tensors gradients(const Function& f, const Tensors& x, const Tensors& weights, const std::vector<int>& fixed = {});
/// Random weights for the floating outputs, absent for integer ones.
Tensors random_weights(const Tensors& y, uint64_t seed);

}  // namespace facet::test
