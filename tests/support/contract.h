// Runs contracts (tests/contracts/contract.h) on the CPU as checks of a test:
//
//   TEST_CASE("rms_norm: contract") { check_contracts("rms_norm"); }
//
// Modes, each over all samples:
//   forward     fused = composite: f64 within f64_rtol, f32 and bf16 by NMSE against the f64 composite at the same rounded inputs
//   grad        f64 gradcheck of fused; = the composite's autograd in f64; f32 and bf16 by NMSE against f64 at the same inputs
//   threads     values and gradients bitwise equal on 1, 2, 4, 8 threads
//   tiers       forward and grad on every body this CPU can run
//   accumulate  two backward passes into one leaf give twice the gradient
// With FACET_CONTRACT in the environment another mode instead: gpu, on the GPU against the CPU (tests/contracts/device.h); threads, on four threads
// against one, and nothing else (tests/races).
// The composite may be a plain loop without a tape: then f32 and bf16 gradients are compared with the op's own in f64.
#pragma once
#include "tests/contracts/contract.h"

namespace facet::test {

void check_contract(const Contract&);
/// Those of tests/contracts/ops/PAGE.cpp.
void check_contracts(const std::string& page);

/// Restores the number of threads and the tier at the end of a scope.
struct MachineScope {
  MachineScope();
  ~MachineScope();
  MachineScope(const MachineScope&) = delete;

 private:
  int threads_, tier_;
};

}  // namespace facet::test
