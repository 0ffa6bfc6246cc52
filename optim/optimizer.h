// What all optimizers share: the list of parameters, the step, and their state as named tensors.
//
//   AdamW optimizer({{.parameters = matrices, .weight_decay = 0.1}, {.parameters = norms}});
//   for (int64_t i = 0; i < steps; ++i) {
//     loss_and_backward();                                              // gradients add up in the parameters
//     const Clip clip = optimizer.clip(1.0);                            // the global norm, and the factor that keeps it below 1
//     if (clip.finite()) optimizer.step(peak * schedule(i), clip.scale);
//     else optimizer.drop_gradients();
//   }
#pragma once
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "autograd/parameter.h"
#include "optim/clip.h"

namespace facet {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

/// Parameters that share their settings.
struct ParameterGroup {
  std::vector<Parameter*> parameters;
  double lr_scale = 1;      ///< times the rate given to step()
  double weight_decay = 0;  ///< decoupled, times the rate (Sgd: refused)
};

class Optimizer {
 public:
  virtual ~Optimizer();

  /// clip_global_norm(parameters(), max_norm): waits once for the norm, so that who calls decides on the host what becomes of the step.
  Clip clip(double max_norm);
  /// Updates every parameter that has a gradient with lr * its group's scale, then drops the gradients. One without a gradient
  /// (not part of this step's loss, or frozen since) is left alone, decay and moments included, wherever gradients are kept. grad_scale
  /// multiplies the gradients as they are read: a clipping factor costs no pass of its own. Takes no memory unless a gradient is strided.
  void step(double lr, double grad_scale = 1);
  /// Gradients stay where they are and become zeros, instead of being dropped: what a captured graph adds to keeps its address. On a GPU
  /// clip() and step() are then graphs themselves, from the second time in a row on that the same parameters have gradients, and everything is
  /// where it was: two calls instead of three launches a parameter and more, with the same bits.
  void keep_gradients(bool on) { keep_gradients_ = on; }
  /// Instead of a step: forgets the gradients and leaves everything else.
  void drop_gradients();

  /// Those that trained when the optimizer was built, in the order given; the list never changes.
  const std::vector<Parameter*>& parameters() const { return parameters_; }
  int64_t steps() const { return steps_; }
  /// Steps whose update was replayed.
  int64_t replays() const { return replays_; }
  size_t state_bytes() const;

  /// "step" (i32, rank 0) and per parameter what the optimizer remembers ("m.NAME", "v.NAME", ...): handles, no copies.
  /// Throws when a parameter has no name or two share one.
  NamedTensors state() const;
  /// Copies a state back. Names, shapes and dtypes must be exactly those of state(); throws Error(Kind::file) naming the first
  /// that is missing, unknown, repeated or different, before anything is changed. Load the parameters' values first.
  void load_state(const NamedTensors&);

 protected:
  static constexpr int most_buffers = 4;
  struct Item {
    Parameter* parameter;
    double lr_scale, weight_decay;
    Shape shape;
    DType dtype;
    Tensor buffers[most_buffers];  ///< absent: this parameter needs none
  };
  /// `names`: of the buffers, at most most_buffers. Throws on an absent, repeated or strided parameter.
  Optimizer(const char* kind, const std::vector<ParameterGroup>& groups, std::initializer_list<const char*> names);

  /// The f32 value of a bf16 parameter, which is what is updated; absent for others.
  static Tensor master_of(const Item&);
  static Out out_of(const Tensor& buffer) { return buffer ? buffer.out() : Out{}; }
  // What OptimizerOf defines: on a GPU a step's constants are uploaded, so many bytes for each parameter, so that its update can be replayed for
  // another one. On the CPU `uploaded` is null.
  virtual size_t constants_bytes() const = 0;
  virtual void write_constants(const Item&, double lr, double grad_scale, void* to) const = 0;
  virtual void update_by(Item&, View grad, double lr, double grad_scale, const void* uploaded) = 0;

  const char* kind_;
  std::vector<Item> items_;
  bool keep_gradients_ = false;
  int64_t steps_ = 0;  ///< in a step: its number, from 1

 private:
  struct Graphs;
  bool on_gpu() const;
  std::span<const void* const> addresses();
  const char* upload_constants(double lr, double grad_scale);
  void forget(Parameter&) const;

  std::vector<Parameter*> parameters_;
  std::vector<const char*> names_;
  std::unique_ptr<Graphs> graphs_;
  int64_t replays_ = 0;
};

}  // namespace facet
