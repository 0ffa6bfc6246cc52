// A tensor that an optimizer may change: value, name, gradient, and whether it trains.
#pragma once
#include <string>

#include "autograd/tape.h"

namespace facet {

class Parameter {
 public:
  Parameter() = default;
  explicit Parameter(Tensor value, bool trains = true) { reset(std::move(value), trains); }

  /// The value; carries the leaf when the parameter trains, so operations on it are recorded.
  const Tensor& value() const { return value_; }
  bool trains() const { return static_cast<bool>(value_.slot()); }
  /// Off: the parameter is a constant and costs no gradient work at all.
  void set_trains(bool on) {
    if (on != trains()) reset(value_.detach(), on);
  }
  void reset(Tensor value, bool trains) { value_ = trains ? leaf(value) : value.detach(); }

  /// Sum of the gradients since it was last cleared or zeroed; f32 for bf16 values. Absent when nothing was written.
  Tensor grad() const { return trains() ? grad_of(value_) : Tensor{}; }
  void clear_grad() {
    if (trains()) facet::clear_grad(value_);
  }

  // For captured graphs, which add to a gradient by its address (autograd/tape.h).
  void zero_grad() {
    if (trains()) facet::zero_grad(value_);
  }
  Tensor grad_memory() const { return trains() ? facet::grad_memory(value_) : Tensor{}; }
  void set_grad_written(bool written) {
    if (trains()) facet::set_grad_written(value_, written);
  }

  std::string name;  ///< dotted path, set once by the module tree

 private:
  Tensor value_;
};

}  // namespace facet
