// The operations Gemma is made of at the sizes it is trained at, forward and backward: what each must compute or move, and a way
// to run it. Kernels are called as the operations call them, without the tape.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace facet::bench {

struct OpCase {
  std::string model, op, pass, shape;  ///< "270m", "geglu", "backward", "512 x 2048"
  double flops = 0, bytes = 0;         ///< one of them: what a call must compute, or else read and write
  std::function<void()> run;

  std::string name() const { return model + " " + op + " " + pass; }
};

/// A list entry is cheap; the operands exist from make() until its result is gone.
struct OpCaseMaker {
  std::string name;                         ///< OpCase::name() of what make() gives
  std::function<OpCase()> make;
};

/// Sizes: demo (3,072 tokens in rows of 24), 270m (512 tokens). Head of 270m: 64 rows, the block it goes by in.
std::vector<OpCaseMaker> op_cases(DType, Device = Device::cpu);

/// What only moves numbers (`bytes`) in a block of so many tokens and such a width, 1,152 for Gemma 3 1B; f32: the optimizer's step alone.
std::vector<OpCaseMaker> moving_cases(int64_t tokens, int64_t width, DType, Device);

}  // namespace facet::bench
