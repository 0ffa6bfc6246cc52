// What every op promises, checked by one runner. A test lists the op once and calls check_contract:
//
//   TEST_CASE("rms_norm: contract") {
//     Contract c;
//     c.name = "rms_norm";
//     c.inputs = [](Random& r, int sample) -> Tensors {
//       const int64_t d = awkward_size(sample);
//       return {with_layout(r.normal({3, d}), all_layouts[sample % 3]), r.normal({d})};
//     };
//     c.fused = [](const Tensors& x) { return rms_norm(x[0], x[1], 1e-6); };
//     c.composite = [](const Tensors& x) { ... mul, mean, rsqrt ... };
//     check_contract(c);
//   }
//
// Modes, each over all samples:
//   forward     fused = composite: f64 within f64_rtol, f32 and bf16 by NMSE against the f64 composite at the same rounded inputs
//   grad        f64 gradcheck of fused; = the composite's autograd in f64; f32 and bf16 by NMSE against f64 at the same inputs
//   threads     values and gradients bitwise equal on 1, 2, 4, 8 threads
//   tiers       forward and grad on every body this CPU can run
//   accumulate  two backward passes into one leaf give twice the gradient
// The composite may be a plain loop without a tape: then f32 and bf16 gradients are compared with the op's own in f64.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "tests/support/compare.h"
#include "tests/support/gradcheck.h"
#include "tests/support/random.h"

namespace facet::test {

struct Contract {
  std::string name;
  int samples = 12;
  std::function<Tensors(Random&, int sample)> inputs;  ///< f64 and i32; any layout
  Function fused, composite;

  std::vector<DType> dtypes = {DType::f64, DType::f32, DType::bf16};
  std::vector<int> keep_dtype;     ///< inputs that stay as they are when the others are converted (weights of a fixed dtype)
  GradcheckOptions gradcheck;
  bool differentiable = true;

  double f64_rtol = 1e-11;         ///< of the largest entry of the tensor
  double f32_nmse = 1e-12, f32_grad_nmse = 1e-10;
  double bf16_nmse = 1e-5, bf16_grad_nmse = 5e-5;
};

void check_contract(const Contract&);

/// Restores the number of threads and the tier at the end of a scope.
struct MachineScope {
  MachineScope();
  ~MachineScope();
  MachineScope(const MachineScope&) = delete;

 private:
  int threads_, tier_;
};

}  // namespace facet::test
