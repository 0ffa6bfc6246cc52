#include "autograd/tape.h"

#include <algorithm>

#include "autograd/anomaly.h"
#include "tensor/kernels/copy.h"
#include "tensor/kernels/sum_to.h"

namespace facet {
namespace {
thread_local bool recording = true;
thread_local bool keeping_less = false;
thread_local uint64_t next_sequence = 0;
Node& node_of(const Tensor& t) { return static_cast<Node&>(*t.slot()); }

void check_leaf(const char* what, const Tensor& t) {
  if (!t.slot() || !dynamic_cast<Leaf*>(t.slot().get()))
    fail(Kind::usage, "{}: this tensor {} is not a leaf; gradients are kept for leaves and parameters only", what,
         to_string(t.shape()));
}
}  // namespace

bool grad_enabled() { return recording; }
NoGrad::NoGrad() : before_(std::exchange(recording, false)) {}
NoGrad::~NoGrad() { recording = before_; }
WithGrad::WithGrad() : before_(std::exchange(recording, true)) {}
WithGrad::~WithGrad() { recording = before_; }

UnkeptPass::UnkeptPass() : before_(std::exchange(recording, anomaly_watch() != nullptr)), sequence_(next_sequence) {}
UnkeptPass::~UnkeptPass() {
  recording = before_;
  if (Anomaly* look = anomaly_watch()) look->dropped(sequence_);
}
Tensor UnkeptPass::input(const Tensor& x) const { return recording && x.slot() ? leaf(x) : x.detach(); }

bool recomputing() { return keeping_less; }
RecomputeScope::RecomputeScope(bool on) : before_(std::exchange(keeping_less, on)) {}
RecomputeScope::~RecomputeScope() { keeping_less = before_; }

TapeStats& tape_stats() {
  thread_local TapeStats stats;
  return stats;
}

// ---- slots and sinks

Out GradSlot::dst() {
  written = true;
  if (!grad) {
    grad = Tensor::empty(shape, dtype, device);
    return grad.out(false);
  }
  if (!grad.unique() || !grad.contiguous()) {
    ++tape_stats().copies;
    grad = grad.clone();
  }
  return grad.out(true);
}

void GradSlot::give(Tensor g, bool writes) {
  if (!grad && g.dtype() == dtype) {
    grad = std::move(g);
    written |= writes;
    return;
  }
  if (grad) ++tape_stats().adds;
  copy(g.view(), dst());
}

Out Sink::dst() { return slot_ ? (private_ ? own_ : *slot_).dst() : Out{}; }

Out Sink::dst(DType kernel_writes) {
  if (!slot_) return {};
  if (!private_ && slot_->dtype == kernel_writes) return slot_->dst();
  private_ = true;
  own_.dtype = kernel_writes;
  return own_.dst();
}

Out Sink::window() {
  if (slot_ && !private_ && !slot_->grad) {
    slot_->grad = static_cast<Node&>(*from_->node).place(from_->output);
    if (slot_->grad) return slot_->grad.out(false);
  }
  return dst();
}

Out Sink::window(DType kernel_writes) { return slot_ && slot_->dtype == kernel_writes ? window() : dst(kernel_writes); }

Out Sink::zeroed() {
  if (!slot_) return {};
  GradSlot& s = private_ ? own_ : *slot_;
  if (!s.grad) s.grad = Tensor::zeros(s.shape, s.dtype, s.device);
  return s.dst();
}

Out Sink::part(int dim, int64_t begin, int64_t end) {
  Out whole = zeroed();
  if (!whole) return whole;
  whole.data = whole.as<char>() + begin * whole.stride[dim] * size_of(whole.dtype);
  whole.shape[dim] = end - begin;
  return whole;
}

void Sink::pass(const Tensor& dy) {
  if (!slot_) return;
  (private_ ? own_ : *slot_).give(dy.detach());
}

void Sink::pass_sum(const Tensor& dy) {
  if (!slot_) return;
  if (dy.shape() == slot_->shape) pass(dy);
  else sum_to(dy.view(), dst());
}

Tensor Sink::take() { return slot_ && !private_ ? std::exchange(slot_->grad, {}) : Tensor{}; }
void Sink::put(Tensor g, bool written) {
  if (slot_ && g) (private_ ? own_ : *slot_).give(std::move(g), written);
}

// ---- recording

void Node::backward(Grads, Sinks) {
  fail(Kind::usage, "{}: has no gradient; detach() its result if none is wanted", op);
}

Tensor Node::recompute(uint16_t) const {
  fail(Kind::usage, "backward: the graph behind \"{}\" was already used by an earlier backward(); run the forward pass again", op);
}

Kept::Kept(const Tensor& t) {
  if (keeping_less && t.slot() && node_of(t).recomputes(t.slot_output())) from_ = {t.slot(), t.slot_output()};
  else saved_ = t;
}

Tensor Kept::get() const {
  if (!from_.node) return saved_.get();
  ++tape_stats().recomputed;
  return static_cast<const Node&>(*from_.node).recompute(from_.output);
}

void attach_node(Node* node, const char* op, std::span<Tensor* const> y, std::span<const Tensor* const> x) {
  Ref<Opaque> ref(node);
  node->op = op;
  node->module = module_place().module;
  node->sequence = ++next_sequence;
  ++tape_stats().nodes;
  node->inputs.reserve(x.size());
  for (const Tensor* t : x) node->inputs.push_back({t->slot(), t->slot_output()});
  node->outputs.resize(y.size());
  for (size_t i = 0; i < y.size(); ++i) {
    node->outputs[i].shape = y[i]->shape();
    node->outputs[i].dtype = y[i]->dtype();
    node->outputs[i].device = y[i]->device();
    y[i]->set_slot(ref, static_cast<uint16_t>(i));
  }
  if (Anomaly* look = anomaly_watch()) look->made(*node, y, x);
}

void attach_no_gradient(const char* op, std::initializer_list<Tensor*> y, std::initializer_list<const Tensor*> x) {
  const bool any = std::any_of(x.begin(), x.end(), [](const Tensor* t) { return static_cast<bool>(t->slot()); });
  if (recording && any) attach_node(new Node, op, {y.begin(), y.size()}, {x.begin(), x.size()});
}

Tensor leaf(const Tensor& value) { return leaf(value, acc_dtype(value.dtype())); }

Tensor leaf(const Tensor& value, DType gradient) {
  Tensor t = value.detach();
  Tensor* y[] = {&t};
  attach_node(new Leaf, "leaf", y, {});
  node_of(t).outputs[0].dtype = gradient;
  return t;
}

Tensor grad_of(const Tensor& t) {
  check_leaf("grad_of", t);
  const GradSlot& slot = node_of(t).outputs[0];
  return slot.written ? slot.grad : Tensor{};
}

Tensor grad_memory(const Tensor& t) {
  check_leaf("grad_memory", t);
  return node_of(t).outputs[0].grad;
}

void set_grad_written(const Tensor& t, bool written) {
  check_leaf("set_grad_written", t);
  node_of(t).outputs[0].written = written;
}

void clear_grad(const Tensor& t) {
  check_leaf("clear_grad", t);
  GradSlot& slot = node_of(t).outputs[0];
  slot.grad = {};
  slot.written = false;
}

void zero_grad(const Tensor& t) {
  check_leaf("zero_grad", t);
  GradSlot& slot = node_of(t).outputs[0];
  slot.written = false;
  if (slot.grad && slot.grad.unique() && slot.grad.contiguous()) {
    const Out g = slot.grad.out();
    fill_bytes(g.device, g.as<char>(), 0, static_cast<size_t>(g.numel() * size_of(g.dtype)));
  } else {
    slot.grad = Tensor::zeros(slot.shape, slot.dtype, slot.device);
  }
}

// ---- backward

/// One run of the tape. Nested runs (checkpoint) have their own heap; leaves are shared and never queued.
struct Backward {
  pool_vector<Ref<Opaque>> heap;
  BackwardModules modules;

  static bool before(const Ref<Opaque>& a, const Ref<Opaque>& b) {
    return static_cast<Node&>(*a).sequence < static_cast<Node&>(*b).sequence;
  }

  void queue(const Ref<Opaque>& ref) {
    Node& n = static_cast<Node&>(*ref);
    check_not_done(n);
    if (n.queued || n.inputs.empty()) return;  // leaves have no inputs and just keep their gradient
    n.queued = true;
    heap.push_back(ref);
    std::push_heap(heap.begin(), heap.end(), before);
  }

  Ref<Opaque> next() {
    std::pop_heap(heap.begin(), heap.end(), before);
    Ref<Opaque> ref = std::move(heap.back());
    heap.pop_back();
    static_cast<Node&>(*ref).queued = false;
    return ref;
  }

  // A throw inside a node must not leave nodes marked as queued.
  ~Backward() {
    for (auto& ref : heap) static_cast<Node&>(*ref).queued = false;
  }

  static void check_not_done(const Node& n) {
    if (n.done)
      fail(Kind::usage, "backward: the graph behind \"{}\" was already used by an earlier backward(); run the forward pass again",
           n.op);
  }

  void run_node(Node& n) {
    check_not_done(n);
    const BackwardScope scope(modules, n.op, n.module);
    pool_vector<Tensor> dy(n.outputs.size());
    for (size_t i = 0; i < dy.size(); ++i) {
      dy[i] = std::exchange(n.outputs[i].grad, {});
      if (dy[i] && !dy[i].contiguous() && !n.placed()) {  // the one place where an expanded or permuted gradient is made dense
        ++tape_stats().dense;
        dy[i] = dy[i].clone();
      }
    }
    pool_vector<Sink> dx(n.inputs.size());
    for (size_t i = 0; i < dx.size(); ++i) {
      const Edge& e = n.inputs[i];
      if (!e.node) continue;
      GradSlot& slot = e.slot();
      dx[i].slot_ = &slot;
      dx[i].from_ = &e;
      dx[i].own_.shape = slot.shape;
      dx[i].own_.dtype = slot.dtype;
      dx[i].own_.device = slot.device;
      for (size_t j = 0; j < i; ++j) dx[i].private_ |= dx[j].slot_ == &slot;
    }
    n.backward(dy, dx);
    dy.clear();
    for (Sink& s : dx)
      if (s.slot_ && s.own_.grad) s.slot_->give(std::move(s.own_.grad));
    if (Anomaly* look = anomaly_watch()) look->passed(n);
    n.done = true;
    n.release_saved();
    for (const Edge& e : n.inputs) {
      if (!e.node) continue;
      if (e.slot().grad) queue(e.node);
    }
    n.inputs.clear();
  }
};

void backward(const Tensor& y, Tensor dy) {
  if (!y) fail(Kind::usage, "backward: the tensor is absent");
  if (!y.slot()) fail(Kind::usage, "backward: this tensor {} has no history: no input of it wanted a gradient", to_string(y.shape()));
  Node& root = node_of(y);
  Backward::check_not_done(root);
  if (!dy) {
    if (y.numel() != 1) fail(Kind::usage, "backward: a gradient must be given for shape {}; sum() it first?", to_string(y.shape()));
    dy = Tensor::full(y.shape(), 1.0, y.dtype(), y.device());
  }
  if (!(dy.shape() == y.shape()))
    fail(Kind::usage, "backward: gradient {} for a tensor {}", to_string(dy.shape()), to_string(y.shape()));
  dy.set_slot({}, 0);
  if (Anomaly* look = anomaly_watch()) look->begins(root, y.slot_output(), dy);
  root.outputs[y.slot_output()].give(std::move(dy));  // no handle stays here, so the first sink may write in place
  NoGrad off;
  Backward run;
  run.queue(y.slot());
  while (!run.heap.empty()) {
    const Ref<Opaque> ref = run.next();
    run.run_node(static_cast<Node&>(*ref));
  }
}

}  // namespace facet
