#include "tensor/gpu/cudnn_attention.h"

#include <algorithm>
#include <bit>
#include <memory>
#include <optional>

#include "tensor/error.h"
#include "tensor/gpu/cudnn_attention_graph.h"
#include "tensor/gpu/measured_choice.h"
#include "tensor/gpu/pool.h"
#include "tensor/gpu/recently_used.h"
#include "tensor/gpu/runtime.h"
#include "tensor/size_classes.h"

namespace facet::gpu {

// ---- what it serves

namespace {

/// A window [B, T, heads, Dh] whose rows are packs of 16 bytes that lie apart.
bool packed(const View& v) {
  if (v.dtype != DType::bf16 || v.shape.rank != 4 || !v.data || reinterpret_cast<uintptr_t>(v.data) % 16) return false;
  if (v.stride[3] != 1 && v.shape[3] > 1) return false;
  for (int i = 0; i < 3; ++i)
    if (v.shape[i] > 1 && (v.stride[i] % 8 || v.stride[i] <= 0)) return false;
  return v.numel() > 0 && v.numel() < (int64_t{1} << 31);
}
bool dense_f32(const View& v) { return v.dtype == DType::f32 && v.contiguous(); }

const char* refuses_inputs(const AttentionInputs& x) {
  if (!x.plain) return "positions are not known to be 0, 1, 2, ... in every row";
  if (!x.causal) return "it is not causal";
  if (x.cap != 0) return "scores are capped";
  if (x.q_segments || x.k_segments) return "there are segments";
  if (x.q.shape[1] != x.k.shape[1]) return "there are more keys than queries, or fewer";
  if (x.q.shape[3] % 8 || x.q.shape[3] > 256) return "the head size is no multiple of 8, or above 256";
  if (!packed(x.q) || !packed(x.k) || !packed(x.v)) return "q, k and v are not bf16 in rows of 16 bytes";
  return nullptr;
}

}  // namespace

const char* cudnn_attention_refuses(const AttentionInputs& x, const Out& y, const Out& lse) {
  if (const char* why = refuses_inputs(x)) return why;
  if (!packed(y) || y.accumulate) return "y is not bf16 in rows of 16 bytes, or is added to";
  if (lse && (!dense_f32(lse) || lse.accumulate)) return "lse is not dense f32, or is added to";
  return nullptr;
}
const char* cudnn_attention_refuses(const AttentionInputs& x, const View& y, const View& lse, const View& dy, const Out& dq, const Out& dk,
                                    const Out& dv) {
  if (const char* why = refuses_inputs(x)) return why;
  if (!packed(y) || !packed(dy)) return "y or dy is not bf16 in rows of 16 bytes";
  if (!lse || !dense_f32(lse)) return "lse is not dense f32";
  for (const Out* d : {&dq, &dk, &dv})
    if (!packed(*d) || d->accumulate) return "a gradient is not wanted, not bf16 in rows of 16 bytes, or is added to";
  return nullptr;
}

namespace {
constexpr int64_t plan_lengths = 64;
}
bool cudnn_worth_a_plan(int64_t T) { return T >= 512 && T % plan_lengths == 0; }

int64_t cudnn_backward_workspace(int64_t B, int64_t T, int64_t H, int64_t K, int64_t Dh, bool deterministic) {
  const int64_t rows = (T + 127) / 128 * 128, heads = K < H ? 4 * B * T * H * Dh : 0;
  return heads + (deterministic ? 2 * B * H * rows * rows : 4 * B * T * H * Dh);
}

#ifndef FACET_HAS_CUDNN

const std::string& cudnn_why_not() { return cudnn_library_why_not(); }
size_t cudnn_backward_takes(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t) { return 0; }
bool cudnn_attention_forward(const AttentionInputs&, const Out&, const Out&) { return false; }
bool cudnn_attention_backward(const AttentionInputs&, const View&, const View&, const View&, const Out&, const Out&, const Out&) { return false; }
void attention_forward_by_choice(const AttentionInputs& x, const Out& y, const Out& lse, void (*own)(const AttentionInputs&, Out, Out)) {
  own(x, y, lse);
}
void attention_backward_by_choice(const AttentionInputs& x, const View& y, const View& lse, const View& dy, const Out& dq, const Out& dk,
                                  const Out& dv, void (*own)(const AttentionInputs&, View, View, View, Out, Out, Out)) {
  own(x, y, lse, dy, dq, dk, dv);
}

#else

// ---- the GPU

namespace {

struct Session {
  cudnnHandle_t handle = nullptr;
  std::optional<cudnn::Descriptor> device;
  std::string why_not;

  Session() {
    if (!available()) why_not = gpu::why_not();
    else if (gpu::device().emulated) why_not = "the GPU is emulated, cuDNN needs a real one";
    else why_not = cudnn_library_why_not();
    if (!why_not.empty()) return;
    try {
      cudnn::check(cudnn::api().create(&handle), "starting");
      cudnn::check(cudnn::api().set_stream(handle, static_cast<cudaStream_t>(stream())), "setting the stream");
      device = cudnn::device_of(handle);
    } catch (const Error& e) {
      why_not = fmt::format("{} Own kernels compute attention", e.what());
    }
  }
};
Session& session() {
  static Session* s = new Session;  // lives as long as the driver
  return *s;
}

}  // namespace

const std::string& cudnn_why_not() { return session().why_not; }

// ---- problems and their plans

namespace {

/// The numbers that a problem is told apart by whatever its strides and its scale: the first of its key.
constexpr int problem_numbers = 8;
LtKey problem_key(int direction, int64_t B, int64_t T, int64_t H, int64_t K, int64_t Dh, int64_t window) {
  LtKey k;
  k.v = {direction, B, T, H, K, Dh, window, deterministic()};
  return k;
}
/// What the graph of a problem is made from.
LtKey key_of(int direction, const AttentionInputs& x, std::initializer_list<const View*> windows) {
  LtKey k = problem_key(direction, x.q.shape[0], x.q.shape[1], x.q.shape[2], x.k.shape[2], x.q.shape[3], x.window);
  uint64_t strides = 1469598103934665603u;
  for (const View* w : windows)
    for (int i = 0; i < 3; ++i) strides = (strides ^ static_cast<uint64_t>(w->shape[i] > 1 ? w->stride[i] : 0)) * 1099511628211u;
  k.v[problem_numbers] = std::bit_cast<int64_t>(x.scale);
  k.v[problem_numbers + 1] = static_cast<int64_t>(strides);
  return k;
}

template <class G>
struct Problem {
  G graph;
  std::optional<cudnn::Plan> plan;  ///< none: the library has no engine for it
  bool recorded = false;            ///< its code is a recorded graph's, too
};
template <class G>
using Problems = RecentlyUsed<LtKey, Problem<G>, LtKeyHash>;
/// Of a direction. A plan takes 0.6 MB of the host (measured on those for an H200) and about as much of the GPU: both directions of 256 shapes,
/// 300 MB. What goes is compiled again when it comes again.
constexpr size_t most_plans = 256;

template <class G, class Make>
const Problem<G>& problem(const LtKey& key, Make&& make) {
  static Problems<G>& all = *new Problems<G>(most_plans);  // plans hold code of the driver's, which may be gone when statics are destroyed
  Problem<G>* p = all.find(key);
  if (!p) {
    Problem<G> made{make(), std::nullopt};
    made.plan = cudnn::make_plan(made.graph.graph, *session().device, deterministic());
    p = &all.add(key, std::move(made), [](const Problem<G>& old) {
      if (old.recorded || capturing()) return false;
      const MaySync wait;  // for a kernel of the plan that goes: beside compiling one, nothing
      synchronize();
      return true;
    });
  }
  p->recorded |= capturing();
  return *p;
}
void* memory(const View& v) { return const_cast<void*>(v.data); }

LtKey forward_key(const AttentionInputs& x, const Out& y, const Out& lse) { return key_of(lse ? 1 : 0, x, {&x.q, &x.k, &x.v, &y}); }
LtKey backward_key(const AttentionInputs& x, const View& y, const View& dy, const Out& dq, const Out& dk, const Out& dv) {
  return key_of(2, x, {&x.q, &x.k, &x.v, &y, &dy, &dq, &dk, &dv});
}

}  // namespace

bool cudnn_attention_forward(const AttentionInputs& x, const Out& y, const Out& lse) {
  if (cudnn_attention_refuses(x, y, lse) || !cudnn_why_not().empty()) return false;
  const auto& p = problem<cudnn::ForwardGraph>(forward_key(x, y, lse), [&] { return cudnn::forward_graph(x, y, lse); });
  if (!p.plan) return false;
  const LaunchScope scope("attention");
  const Scratch workspace(static_cast<size_t>(p.plan->workspace_bytes), "workspace of cuDNN");
  const cudnn::ForwardGraph& g = p.graph;
  std::vector<std::pair<int64_t, void*>> pointers = {{g.q, memory(x.q)}, {g.k, memory(x.k)}, {g.v, memory(x.v)}, {g.y, memory(y)}};
  if (g.lse) pointers.emplace_back(g.lse, memory(lse));
  cudnn::execute(session().handle, g.graph, *p.plan, std::move(pointers), workspace.as<void>());
  return true;
}

bool cudnn_attention_backward(const AttentionInputs& x, const View& y, const View& lse, const View& dy, const Out& dq, const Out& dk,
                              const Out& dv) {
  if (cudnn_attention_refuses(x, y, lse, dy, dq, dk, dv) || !cudnn_why_not().empty()) return false;
  const auto& p = problem<cudnn::BackwardGraph>(backward_key(x, y, dy, dq, dk, dv),
                                                [&] { return cudnn::backward_graph(x, y, lse, dy, dq, dk, dv, deterministic()); });
  if (!p.plan) return false;
  const LaunchScope scope("attention backward");
  const cudnn::BackwardGraph& g = p.graph;
  const Scratch workspace(static_cast<size_t>(p.plan->workspace_bytes), "workspace of cuDNN");
  const Scratch delta(static_cast<size_t>(lse.numel()) * sizeof(float), "workspace of cuDNN");
  const Scratch sum(g.dq_sum ? static_cast<size_t>(x.q.numel()) * sizeof(float) : 0, "workspace of cuDNN");
  std::vector<std::pair<int64_t, void*>> pointers = {{g.q, memory(x.q)},   {g.k, memory(x.k)}, {g.v, memory(x.v)},   {g.y, memory(y)},
                                                     {g.lse, memory(lse)}, {g.dy, memory(dy)}, {g.dq, memory(dq)},   {g.dk, memory(dk)},
                                                     {g.dv, memory(dv)},   {g.delta, delta.as<void>()}};
  if (g.dq_sum) pointers.emplace_back(g.dq_sum, sum.as<void>());
  cudnn::execute(session().handle, g.graph, *p.plan, std::move(pointers), workspace.as<void>());
  return true;
}

// ---- the choice, measured

namespace {

LtChoices& choices() {
  static LtChoices c(lt_choices_path(gpu::device().name, cudnn_version(), "cudnn"));
  return c;
}

}  // namespace

size_t cudnn_backward_takes(int64_t B, int64_t T, int64_t H, int64_t K, int64_t Dh, int64_t window) {
  T -= T % plan_lengths;
  if (Dh % 8 || Dh > 256 || B == 0 || !cudnn_worth_a_plan(T) || !cudnn_why_not().empty()) return 0;
  const LtKey like = problem_key(2, B, T, H, K, Dh, window);
  const LtChoice* const known = choices().find_if([&](const LtKey& k) {
    return std::equal(k.v.begin(), k.v.begin() + problem_numbers, like.v.begin());
  });
  if (known ? known->algorithm[0] != static_cast<uint64_t>(ComputedBy::library) : tuning() != Tuning::on) return 0;
  return size_classes::rounded(static_cast<size_t>(cudnn_backward_workspace(B, T, H, K, Dh, deterministic()))) +
         size_classes::rounded(static_cast<size_t>(B * H * T) * sizeof(float));
}

void attention_forward_by_choice(const AttentionInputs& x, const Out& y, const Out& lse, void (*own)(const AttentionInputs&, Out, Out)) {
  if (cudnn_attention_refuses(x, y, lse) || !cudnn_worth_a_plan(x.q.shape[1]) || !cudnn_why_not().empty()) return own(x, y, lse);
  const MeasuredChoice<2> choice{"attention", "cuDNN", {y, lse}, attention_nearness};
  choice.compute(choices(), forward_key(x, y, lse), [&] { return cudnn_attention_forward(x, y, lse); }, [&] { own(x, y, lse); });
}
void attention_backward_by_choice(const AttentionInputs& x, const View& y, const View& lse, const View& dy, const Out& dq, const Out& dk,
                                  const Out& dv, void (*own)(const AttentionInputs&, View, View, View, Out, Out, Out)) {
  if (cudnn_attention_refuses(x, y, lse, dy, dq, dk, dv) || !cudnn_worth_a_plan(x.q.shape[1]) || !cudnn_why_not().empty())
    return own(x, y, lse, dy, dq, dk, dv);
  const MeasuredChoice<3> choice{"attention backward", "cuDNN", {dq, dk, dv}, attention_backward_nearness};
  choice.compute(choices(), backward_key(x, y, dy, dq, dk, dv), [&] { return cudnn_attention_backward(x, y, lse, dy, dq, dk, dv); },
                 [&] { own(x, y, lse, dy, dq, dk, dv); });
}

#endif

}  // namespace facet::gpu
