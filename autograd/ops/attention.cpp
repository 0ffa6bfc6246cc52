#include "tensor/kernels/attention.h"

#include "autograd/ops.h"

namespace facet {
namespace {

AttentionInputs inputs_of(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionMask& mask, double scale, double cap) {
  AttentionInputs x;
  x.q = q.view();
  x.k = k.view();
  x.v = v.view();
  x.q_positions = mask.q_positions.view();
  x.k_positions = (mask.k_positions ? mask.k_positions : mask.q_positions).view();
  if (mask.q_segments) {
    x.q_segments = mask.q_segments.view();
    x.k_segments = (mask.k_segments ? mask.k_segments : mask.q_segments).view();
  }
  x.window = mask.window;
  x.causal = mask.causal;
  x.plain = mask.plain;
  x.scale = scale;
  x.cap = cap;
  return x;
}

struct AttentionGrad {
  Kept q, k;
  Saved v, y, lse;
  Saved q_positions, k_positions, q_segments, k_segments;
  int64_t window;
  bool causal, plain;
  double scale, cap;

  void operator()(Grads dy, Sinks dx) {
    if (!dx[0] && !dx[1] && !dx[2]) return;
    const auto given = [](const Saved& s) { return s ? s.get() : Tensor{}; };
    const AttentionMask mask{q_positions.get(), given(k_positions), given(q_segments), given(k_segments), window, causal, plain};
    attention_backward(inputs_of(q.get(), k.get(), v.get(), mask, scale, cap), y.view(), lse.view(), dy[0].view(), dx[0].window(),
                       dx[1].window(), dx[2].window());
  }
};

void check_last_dense(const char* name, const Tensor& t) {
  if (t.dim(-1) > 1 && t.stride()[-1] != 1)
    fail(Kind::usage, "attention: {} {} must be dense along its last dimension, found stride {}; make a dense copy first", name,
         to_string(t.shape()), t.stride()[-1]);
}

void check_integers(const char* name, const Tensor& t, int64_t rows, int64_t columns) {
  if (t.dtype() != DType::i32 || !(t.shape() == Shape{rows, columns}))
    fail(Kind::usage, "attention: {} must be i32{}, found {}{}", name, to_string(Shape{rows, columns}), name_of(t.dtype()),
         to_string(t.shape()));
}

void check(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionMask& mask, double cap) {
  if (!q || !k || !v) fail(Kind::usage, "attention: q, k and v must be given; {} is absent", !q ? "q" : !k ? "k" : "v");
  const auto found = [&] {
    return fmt::format("found q {}, k {}, v {}", to_string(q.shape()), to_string(k.shape()), to_string(v.shape()));
  };
  if (q.rank() != 4 || k.rank() != 4 || v.rank() != 4)
    fail(Kind::usage, "attention: expected q [B, T, H, Dh], k and v [B, S, K, Dh]; {}", found());
  if (!(k.shape() == v.shape())) fail(Kind::usage, "attention: k and v must have one shape [B, S, K, Dh]; {}", found());
  if (q.dim(0) != k.dim(0) || q.dim(3) != k.dim(3)) fail(Kind::usage, "attention: q and k must agree in batch and head size; {}", found());
  if (q.dim(3) == 0) fail(Kind::usage, "attention: the head size is 0; {}", found());
  if (k.dim(2) == 0 || q.dim(2) % k.dim(2) != 0)
    fail(Kind::usage, "attention: {} query heads are no multiple of {} key heads; {}", q.dim(2), k.dim(2), found());
  if (q.dtype() != k.dtype() || q.dtype() != v.dtype() || q.dtype() == DType::i32)
    fail(Kind::usage, "attention: q, k and v must share one of f32, bf16, f64; found {}, {}, {}", name_of(q.dtype()),
         name_of(k.dtype()), name_of(v.dtype()));
  check_last_dense("q", q);
  check_last_dense("k", k);
  check_last_dense("v", v);
  const int64_t B = q.dim(0), T = q.dim(1), S = k.dim(1);
  if (!mask.q_positions) fail(Kind::usage, "attention: the mask needs q_positions, i32{}", to_string(Shape{B, T}));
  check_integers("q_positions", mask.q_positions, B, T);
  if (mask.k_positions) check_integers("k_positions", mask.k_positions, B, S);
  else if (T != S) fail(Kind::usage, "attention: k_positions may only be left out when keys are as many as queries; {}", found());
  if (mask.k_segments && !mask.q_segments) fail(Kind::usage, "attention: the mask has k_segments but no q_segments");
  if (mask.q_segments) {
    check_integers("q_segments", mask.q_segments, B, T);
    if (mask.k_segments) check_integers("k_segments", mask.k_segments, B, S);
    else if (T != S) fail(Kind::usage, "attention: k_segments may only be left out when keys are as many as queries; {}", found());
  }
  if (mask.window < 0) fail(Kind::usage, "attention: window {} is negative; 0 means unlimited", mask.window);
  if (!(cap >= 0)) fail(Kind::usage, "attention: cap {} must be positive, or 0 for none", cap);
}

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionMask& mask, double scale, double cap) {
  const OpScope scope("attention");
  check(q, k, v, mask, cap);
  Tensor y = Tensor::empty(q.shape(), q.dtype(), q.device());  // [B, T, H, Dh]
  const bool trace = tracing(q, k, v);
  const Tensor lse = trace ? Tensor::empty({q.dim(0), q.dim(2), q.dim(1)}, acc_dtype(q.dtype()), q.device()) : Tensor{};  // [B, H, T]
  attention_forward(inputs_of(q, k, v, mask, scale, cap), y.out(), trace ? lse.out() : Out{});
  if (trace) {
    const auto keep = [](const Tensor& t) { return t ? Saved(t) : Saved(); };
    attach("attention", {&y}, {&q, &k, &v},
           AttentionGrad{q, k, v, y, lse, mask.q_positions, keep(mask.k_positions), keep(mask.q_segments), keep(mask.k_segments),
                         mask.window, mask.causal, mask.plain, scale, cap});
  }
  return y;
}

}  // namespace facet
