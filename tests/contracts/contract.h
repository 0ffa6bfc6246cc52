// What every operation promises, as data: inputs in awkward sizes and layouts, the operation, its slow twin, tolerances. One list, run
// on the CPU in every dtype, tier and number of threads (tests/support/contract.h), and on a GPU against the CPU, emulated or real
// (tests/contracts/device.h). No test framework here: the program links the list for `facet conformance`.
//
//   Contract c;
//   c.name = "rms_norm";
//   c.inputs = [](Random& r, int sample) -> Tensors {
//     const int64_t d = awkward_size(sample);
//     return {with_layout(r.normal({3, d}), all_layouts[sample % 3]), r.normal({d})};
//   };
//   c.fused = [](const Tensors& x) { return rms_norm(x[0], x[1], 1e-6); };
//   c.composite = [](const Tensors& x) { ... mul, mean, rsqrt ... };
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "tests/support/compare.h"
#include "tests/support/gradcheck.h"
#include "tests/support/random.h"

namespace facet::test {

/// How a result is computed, which decides how near two right ones are.
enum class Arithmetic {
  none,         ///< values are moved: the same bits everywhere
  elementwise,  ///< each from a few others
  sums,         ///< reductions and products, whose order of additions differs from device to device
  attention,    ///< products of products, with probabilities rounded between them
  head          ///< the same with bf16 logits and their gradient between them on the GPU (f32 on the CPU): a logit of 16 moves by up to 1/16
};

struct Contract {
  std::string name;                ///< the operation, ": " and a variant where there are several
  std::string page;                ///< tests/contracts/ops/PAGE.cpp; set by contracts()
  int samples = 12;
  std::function<Tensors(Random&, int sample)> inputs;  ///< f64 and i32; any layout
  Function fused, composite;

  std::vector<DType> dtypes = {DType::f64, DType::f32, DType::bf16};
  std::vector<int> keep_dtype;     ///< inputs that stay as they are when the others are converted (weights of a fixed dtype)
  std::vector<int> host;           ///< inputs that stay on the host when the others move to a device: settings that fused reads
  GradcheckOptions gradcheck;
  bool differentiable = true;

  Arithmetic kind = Arithmetic::sums;
  double f64_rtol = 1e-11;         ///< of the largest entry of the tensor
  double f32_nmse = 1e-12, f32_grad_nmse = 1e-10;
  double bf16_nmse = 1e-5, bf16_grad_nmse = 5e-5;
};
using Contracts = std::vector<Contract>;

/// All of them, in the order of tests/contracts/ops/list.h.
const Contracts& contracts();

/// The inputs of a sample in f64 and their words for messages: "rms_norm sample 3: [3, 7] strided [7]".
struct Sample {
  Tensors inputs;
  std::string what;
};
Sample make_sample(const Contract&, int sample);
/// The inputs in dtype d, in their layouts; those of keep_dtype and integers as they are.
Tensors inputs_in(const Contract&, const Tensors& inputs, DType d);
/// Incoming gradients for outputs y: the same numbers for every dtype, what bf16 can hold.
Tensors weights_for(const Tensors& y);

}  // namespace facet::test
