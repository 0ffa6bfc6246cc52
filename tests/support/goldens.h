// Reference numbers computed by the real libraries, in tests/goldens/ (safetensors and json).
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tensor/tensor.h"
#include "tests/support/gradcheck.h"

namespace facet::test {

/// Full path of a file in tests/goldens.
std::string golden_path(const std::string& relative);

/// The tensors of one safetensors file. I64 values are delivered as f64 (exact below 2^53).
class Golden {
 public:
  explicit Golden(const std::string& relative);  ///< "gemma3-tiny-ref/taps.safetensors"
  const Tensor& operator[](const std::string& name) const;  ///< throws naming the file when missing
  bool has(const std::string& name) const { return tensors_.count(name) > 0; }
  const std::map<std::string, Tensor>& all() const { return tensors_; }

 private:
  std::string file_;
  std::map<std::string, Tensor> tensors_;
};

/// One case of ops.json: inputs and cotangents in f32 (or i32), outputs and gradients in f64.
struct OpCase {
  std::string name, op;
  std::vector<std::string> inputs, outputs;
  Tensor in(const std::string& name, DType dtype = DType::f64) const;  ///< floating inputs in this dtype, i32 as they are
  Tensor out(const std::string& name) const;
  Tensor grad(const std::string& input) const;                         ///< absent when the library gave none
  Tensor cotangent(const std::string& output, DType dtype = DType::f64) const;
  bool has_attribute(const std::string& name) const;
  double attribute(const std::string& name) const;                     ///< throws when missing or null
  double attribute(const std::string& name, double otherwise) const;   ///< otherwise: missing or null
  std::string text(const std::string& name) const;                     ///< a text attribute
  double f32_error() const;  ///< error of the library's own f32 run relative to the largest entry, worst of outputs and gradients

  struct Data;
  std::shared_ptr<const Data> data;
};

/// Calls f for every case of this op in ops.json, under Catch's INFO(case name); at least one must exist.
void for_each_op_case(const std::string& op, const std::function<void(const OpCase&)>& f);

/// Checks f against the cases of an op: in f64, outputs and gradients within `rtol` of the largest entry; in f32, within
/// 8 times the error of the library's own f32 run (at least 2e-6 of the largest entry). f takes the inputs listed in `inputs`
/// and returns the outputs in the order of the json (one Tensor when there is one).
using GoldenFunction = std::function<Tensors(const OpCase&, const Tensors&)>;
void check_op_goldens(const std::string& op, const std::vector<std::string>& inputs, const GoldenFunction& f, double rtol = 1e-12);

}  // namespace facet::test
