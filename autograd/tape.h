// The eager tape: nodes, gradient slots, sinks, backward. A node is a plain struct with saved tensors and
// operator()(Grads dy, Sinks dx); backward hands it destinations to write into, so nothing is allocated to accumulate.
//
// Who owns a gradient: the slot of the node that produced the value. backward() moves it out just before that node runs and
// drops it just after. A leaf's slot IS Parameter::grad, so accumulation over micro-batches is the same mechanism.
#pragma once
#include <initializer_list>
#include <optional>
#include <span>
#include <utility>

#include "autograd/scopes.h"
#include "tensor/pool_vector.h"
#include "tensor/tensor.h"

namespace facet {

/// The gradient of one output of a node while it is being summed.
struct GradSlot {
  Tensor grad;   ///< absent until the first writer; of a leaf that zero_grad() left its memory: zeros until then
  Shape shape;
  DType dtype = DType::f32;
  Device device = Device::cpu;
  bool written = false;  ///< of a leaf: since it was cleared or zeroed. Known on the host, whatever device the gradient is on

  Out dst();             ///< first: fresh memory, "="; later: in place, "+=", if unshared and dense, else into a counted copy
  void give(Tensor g, bool writes = true);   ///< first with the right dtype: keeps the handle; else adds. Off: g is what was here before
};

/// Where a value came from: output `output` of `node`; a null node wants no gradient.
struct Edge {
  Ref<Opaque> node;
  uint16_t output = 0;

  GradSlot& slot() const;  ///< of a node that is there
};

/// One per input of a node, alive while that node's backward runs.
class Sink {
 public:
  /// False: nobody wants this gradient, skip the work.
  explicit operator bool() const { return slot_ != nullptr; }
  DType dtype() const { return slot_->dtype; }
  /// Memory in the slot's dtype (f32 for parameters whatever they are stored in). An absent sink gives a null Out.
  Out dst();
  /// For a kernel that writes `kernel_writes` only: the slot itself, or a private buffer merged after the node.
  Out dst(DType kernel_writes);
  /// The same two for a kernel that takes strides: where the value is a window on another (a part of split), inside the gradient of the whole, if
  /// nobody has written yet. Then split finds its gradient complete and copies nothing.
  Out window();
  Out window(DType kernel_writes);
  /// The region [begin, end) of dimension `dim`; the whole is zeroed on first use.
  Out part(int dim, int64_t begin, int64_t end);
  /// Whole gradient, zeroed on first use, always "+=": for scatters. In the slot's dtype.
  Out zeroed();
  /// Hands the gradient over without a copy; any layout, shape of the input.
  void pass(const Tensor& dy);
  /// The same for a broadcast input: sums dy over the broadcast dimensions.
  void pass_sum(const Tensor& dy);
  /// Lends the running sum to a nested backward, and takes it back, written to or not.
  Tensor take();
  void put(Tensor g, bool written);

 private:
  friend struct Backward;
  GradSlot* slot_ = nullptr;
  const Edge* from_ = nullptr;  ///< whose slot it is
  bool private_ = false;  ///< another input of this node shares the slot: collect apart, merge afterwards
  GradSlot own_;
};

using Grads = std::span<Tensor>;  ///< mutable: an op may move a gradient out. Absent: that output got no gradient
using Sinks = std::span<Sink>;

struct Node : Opaque {
  const char* op = "";
  const ModuleName* module = nullptr;  ///< that recorded it, while somebody looks
  uint64_t sequence = 0;  ///< creation order
  bool done = false, queued = false;
  pool_vector<Edge> inputs;
  pool_vector<GradSlot> outputs;

  virtual void backward(Grads dy, Sinks dx);  ///< default: throws "op: has no gradient"
  virtual void release_saved() {}
  /// Whether recompute(output) works: the same bits as forward gave, at elementwise cost, from what the node saved.
  virtual bool recomputes(uint16_t /*output*/) const { return false; }
  virtual Tensor recompute(uint16_t output) const;
  /// Where in the gradient of its input that of an output may be written, which is made for that when it is first asked for. Absent: nowhere, or
  /// the place was given away before.
  virtual Tensor place(uint16_t /*output*/) { return {}; }
  /// Whether some were given away: then backward takes gradients of any layout.
  virtual bool placed() const { return false; }
};

/// The only node template: F is the op's struct of saved tensors with operator()(Grads, Sinks), and, where an output can be had again
/// cheaply, recomputes(output) and recompute(output), and, where outputs are windows on the input, placed() and place(output, node).
template <class F>
struct NodeOf final : Node {
  std::optional<F> f;
  explicit NodeOf(F&& g) : f(std::move(g)) {}
  void backward(Grads dy, Sinks dx) override { (*f)(dy, dx); }
  void release_saved() override { f.reset(); }
  bool recomputes(uint16_t output) const override {
    if constexpr (requires { f->recomputes(output); }) return f && f->recomputes(output);
    return false;
  }
  Tensor recompute(uint16_t output) const override {
    if constexpr (requires { f->recompute(output); })
      if (f) return f->recompute(output);
    return Node::recompute(output);
  }
  Tensor place(uint16_t output) override {
    if constexpr (requires { f->placed(); })
      if (f) return f->place(output, *this);
    return {};
  }
  bool placed() const override {
    if constexpr (requires { f->placed(); }) return f && f->placed();
    return false;
  }
};

inline GradSlot& Edge::slot() const { return static_cast<Node&>(*node).outputs[output]; }

/// A value without history that wants a gradient; outputs[0].grad is the gradient.
struct Leaf final : Node {};

/// True while operations are recorded (thread-local).
bool grad_enabled();
struct NoGrad {
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;

 private:
  bool before_;
};
struct WithGrad {
  WithGrad();
  ~WithGrad();
  WithGrad(const WithGrad&) = delete;

 private:
  bool before_;
};

/// While one lives, operations recorded on this thread keep no result of another operation that can be had again at elementwise cost.
bool recomputing();
class RecomputeScope {
 public:
  explicit RecomputeScope(bool on);
  ~RecomputeScope();
  RecomputeScope(const RecomputeScope&) = delete;

 private:
  bool before_;
};

/// What an operation keeps of another's result for backward: a Saved, or inside a RecomputeScope the node that computes it again. Backward
/// runs a node before those it read from, so what that node saved is still there.
class Kept {
 public:
  Kept() = default;
  Kept(const Tensor&);
  /// Computed anew in every call.
  Tensor get() const;
  explicit operator bool() const { return saved_ || from_.node; }

 private:
  Saved saved_;
  Edge from_;
};

/// True when gradients are on and some input has a history or is a leaf. Tensors that are absent do not count.
template <class... X>
bool tracing(const X&... x) {
  return grad_enabled() && (static_cast<bool>(x.slot()) || ...);
}

/// Records a node: outputs y get it as slot, inputs x become its edges (absent tensors and tensors without slot: no gradient).
void attach_node(Node* node, const char* op, std::span<Tensor* const> y, std::span<const Tensor* const> x);
template <class F>
void attach(const char* op, std::initializer_list<Tensor*> y, std::initializer_list<const Tensor*> x, F f) {
  attach_node(new NodeOf<F>(std::move(f)), op, {y.begin(), y.size()}, {x.begin(), x.size()});
}
template <class F>
void attach(const char* op, std::span<Tensor* const> y, std::span<const Tensor* const> x, F f) {
  attach_node(new NodeOf<F>(std::move(f)), op, y, x);
}
/// For an op that has no gradient: when an input is being traced, its output throws in backward rather than detach silently.
void attach_no_gradient(const char* op, std::initializer_list<Tensor*> y, std::initializer_list<const Tensor*> x);

/// A tensor with the same storage that collects a gradient (read it with grad_of), in the accumulation type of its own or in `gradient`.
Tensor leaf(const Tensor& value);
Tensor leaf(const Tensor& value, DType gradient);
/// The gradient collected by a leaf; absent when none was written since it was cleared or zeroed.
Tensor grad_of(const Tensor& leaf);
void clear_grad(const Tensor& leaf);
/// Makes the gradient zeros, in the memory it has if that is its own: captured graphs add to it by address.
void zero_grad(const Tensor& leaf);
/// Where the gradient lies, written or only zeroed; absent when it has no memory.
Tensor grad_memory(const Tensor& leaf);
/// A replayed graph writes gradients and zeros them behind the tape's back: who replays it says what the recorded pass did.
void set_grad_written(const Tensor& leaf, bool written);

/// Runs the tape backwards from y. dy defaults to 1 and must be given unless y has one element. Nodes run in reverse creation
/// order, each once; saved tensors are released as they are used, so a second backward through the same graph throws.
void backward(const Tensor& y, Tensor dy = {});

/// What backward did since the last reset; tests hold these numbers.
struct TapeStats {
  int64_t nodes = 0;   ///< nodes recorded
  int64_t copies = 0;  ///< gradients copied because a sink was shared or strided
  int64_t adds = 0;    ///< separate additions of gradients
  int64_t dense = 0;   ///< incoming gradients made contiguous
  int64_t recomputed = 0;  ///< tensors computed again for a node that had not kept them
};
TapeStats& tape_stats();

/// f(x) without keeping what f's operations save: backward runs f again. Recorded even when x wants no gradient, since f's
/// parameters may. f must be repeatable: capture RNG keys by value.
template <class F>
Tensor checkpoint(F f, const Tensor& x);

// ---- implementation of checkpoint

/// The forward pass of a checkpoint. Nothing is recorded; under an Anomaly it is, so that the operations inside have names, and dropped.
class UnkeptPass {
 public:
  UnkeptPass();
  ~UnkeptPass();
  UnkeptPass(const UnkeptPass&) = delete;
  Tensor input(const Tensor& x) const;

 private:
  bool before_;
  uint64_t sequence_;
};

template <class F>
struct CheckpointGrad {
  F f;
  Saved x;
  void operator()(Grads dy, Sinks dx) {
    WithGrad on;
    const Tensor inner = dx[0] ? leaf(x.get(), dx[0].dtype()) : x.get();
    const Tensor y = f(inner);
    if (!y.slot()) return;  // neither x nor anything inside f trains
    if (!dx[0]) return facet::backward(y, std::move(dy[0]));
    GradSlot& sum = static_cast<Node&>(*inner.slot()).outputs[0];
    sum.grad = dx[0].take();
    facet::backward(y, std::move(dy[0]));
    dx[0].put(std::move(sum.grad), sum.written);
  }
};

template <class F>
Tensor checkpoint(F f, const Tensor& x) {
  if (!grad_enabled()) return f(x);
  Tensor y;
  {
    const UnkeptPass pass;
    const Tensor inner = pass.input(x);
    y = f(inner).detach();
  }
  attach("checkpoint", {&y}, {&x}, CheckpointGrad<F>{std::move(f), x});
  return y;
}

}  // namespace facet
