#include "bench/support/op_cases.h"

#include <fmt/format.h>

#include <array>
#include <memory>

#include "autograd/ops/linear_loss.h"
#include "autograd/ops/rope.h"
#include "bench/support/race.h"
#include "tensor/kernels/adamw.h"
#include "tensor/kernels/attention.h"
#include "tensor/kernels/elementwise.h"
#include "tensor/kernels/embedding.h"
#include "tensor/kernels/geglu.h"
#include "tensor/kernels/gemm.h"
#include "tensor/kernels/norm_rope.h"
#include "tensor/kernels/rms_norm.h"
#include "tensor/rope_table.h"

namespace facet::bench {
namespace {

struct Sizes {
  const char* model;
  int64_t B, T, D, F, H, K, Dh, V, head_rows;
  DType t = DType::f32;
  Device device = Device::cpu;
  int64_t N() const { return B * T; }
  double e() const { return static_cast<double>(size_of(t)); }  ///< bytes of an element
};
constexpr Sizes sizes[] = {{"demo", 128, 24, 96, 256, 4, 1, 24, 16, 3072}, {"270m", 1, 512, 640, 2048, 4, 1, 256, 262144, 64}};

double f(int64_t n) { return static_cast<double>(n); }

// Operands, where they are needed.
Tensor noise(const Sizes& s, const Shape& shape, DType dtype) { return bench::noise(shape, dtype).to(s.device); }
Tensor noise(const Sizes& s, const Shape& shape) { return noise(s, shape, s.t); }
Tensor zeros(const Sizes& s, const Shape& shape, DType dtype = DType::f32) { return Tensor::zeros(shape, dtype, s.device); }
Tensor counting(int64_t rows, int64_t columns, int64_t step, int64_t modulus) {
  std::vector<int32_t> list;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) list.push_back(static_cast<int32_t>((r * columns + c) * step % modulus));
  return Tensor::from(list, {rows, columns});
}
Tensor tokens(const Sizes& s) { return counting(1, s.N(), 7919, s.V).reshape({s.N()}).to(s.device); }
Tensor positions(const Sizes& s) { return counting(s.B, s.T, 1, s.T).to(s.device); }

struct List {
  std::vector<OpCaseMaker> cases;

  /// `make` fills shape, work and run; what run captures lives as long as the case.
  void add(const Sizes& s, std::string op, std::string pass, std::function<void(OpCase&)> make) {
    OpCase c;
    c.model = s.model, c.op = std::move(op), c.pass = std::move(pass);
    cases.push_back({c.name(), [c, make] {
                       OpCase made = c;
                       make(made);
                       return made;
                     }});
  }

  void embedding(const Sizes& s) {
    const auto shape = fmt::format("{} of {} x {}", s.N(), s.V, s.D);
    add(s, "embedding", "forward", [=](OpCase& c) {
      const Tensor table = noise(s, {s.V, s.D}), y = zeros(s, {s.N(), s.D}, s.t), ids = tokens(s);
      c.shape = shape, c.bytes = 2 * s.e() * f(s.N() * s.D);
      c.run = [=] { facet::embedding(ids.view(), table.view(), 25.3, y.out()); };
    });
    add(s, "embedding", "backward", [=](OpCase& c) {
      const Tensor dy = noise(s, {s.N(), s.D}), dw = zeros(s, {s.V, s.D}), ids = tokens(s);
      c.shape = shape, c.bytes = (s.e() + 8) * f(s.N() * s.D);
      c.run = [=] { embedding_backward(ids.view(), dy.view(), 25.3, dw.out(true)); };
    });
  }

  void linear(const Sizes& s, const std::string& which, int64_t in, int64_t out) {
    const int64_t n = s.N();
    for (const char* pass : {"forward", "dx", "dw"}) {
      add(s, "linear " + which, pass, [=](OpCase& c) {
        const Tensor x = noise(s, {n, in}), w = noise(s, {out, in}), dy = noise(s, {n, out});
        c.shape = fmt::format("{} x {} -> {}", n, in, out), c.flops = 2 * f(n * in * out);
        const std::string p = pass;
        if (p == "dw") {
          const Tensor dw = zeros(s, w.shape());
          c.run = [=] { linear_dw(dy.view(), x.view(), dw.out()); };
        } else {
          c.run = [=] {
            const View vw = w.view(), vdy = dy.view();
            const Out y = dy.out(), dx = x.out();
            if (p == "forward") facet::linear(x.view(), {&vw, 1}, {&y, 1});
            else linear_dx({&vdy, 1}, {&vw, 1}, dx);
          };
        }
      });
    }
  }

  void rms_norm(const Sizes& s) {
    const auto shape = fmt::format("{} x {}", s.N(), s.D);
    const double row = s.e() * f(s.N() * s.D);
    const auto operands = [=] {
      return std::array{noise(s, {s.N(), s.D}), noise(s, {s.N(), s.D}), noise(s, {s.D}), zeros(s, {s.N(), s.D}, s.t), zeros(s, {s.N()}),
                        zeros(s, {s.D})};
    };
    add(s, "rms_norm", "forward", [=](OpCase& c) {
      c.shape = shape, c.bytes = 2 * row;
      c.run = [o = operands()] { facet::rms_norm(o[0].view(), o[2].view(), 1e-6, o[3].out(), o[4].out()); };
    });
    add(s, "rms_norm", "backward", [=](OpCase& c) {
      c.shape = shape, c.bytes = 3 * row;
      c.run = [o = operands()] {
        rms_norm_backward(o[1].view(), o[0].view(), o[2].view(), o[4].view(), o[3].out(), o[5].out());
      };
    });
  }

  void norm_rope(const Sizes& s) {
    const auto shape = fmt::format("{} x {} x {} x {}", s.B, s.T, s.H, s.Dh);
    const double all = s.e() * f(s.N() * s.H * s.Dh);
    struct Operands {
      Tensor x, dy, w, y, rstd, dw, positions;
      RopeTable table;
    };
    const auto operands = [=] {
      const Shape x{s.B, s.T, s.H, s.Dh};
      return std::make_shared<Operands>(Operands{noise(s, x), noise(s, x), noise(s, {s.Dh}), zeros(s, x, s.t), zeros(s, {s.N() * s.H}),
                                                 zeros(s, {s.Dh}), positions(s), RopeTable(s.Dh, 1e4)});
    };
    add(s, "norm_rope", "forward", [=](OpCase& c) {
      c.shape = shape, c.bytes = 2 * all;
      c.run = [o = operands()] {
        const RopeRows rows = rows_for(o->table, o->positions, DType::f32);
        facet::norm_rope(o->x.view(), o->w.view(), 1e-6, o->positions.view(), rows, o->y.out(), o->rstd.out());
      };
    });
    add(s, "norm_rope", "backward", [=](OpCase& c) {
      c.shape = shape, c.bytes = 3 * all;
      c.run = [o = operands()] {
        const RopeRows rows = rows_for(o->table, o->positions, DType::f32);
        norm_rope_backward(o->dy.view(), o->x.view(), o->w.view(), o->rstd.view(), o->positions.view(), rows, o->y.out(), o->dw.out());
      };
    });
  }

  void attention(const Sizes& s) {
    const auto shape = fmt::format("{} x {} x {}/{} x {}", s.B, s.T, s.H, s.K, s.Dh);
    const double pairs = f(s.B * s.H) * f(s.T * (s.T + 1) / 2);
    struct Operands {
      Tensor q, k, v, dy, y, lse, dq, dk, dv, positions;
      AttentionInputs x;
    };
    const auto operands = [=] {
      const Shape q{s.B, s.T, s.H, s.Dh}, k{s.B, s.T, s.K, s.Dh};
      auto o = std::make_shared<Operands>(Operands{noise(s, q), noise(s, k), noise(s, k), noise(s, q), zeros(s, q, s.t),
                                                   zeros(s, {s.B, s.H, s.T}), zeros(s, q, s.t), zeros(s, k, s.t),
                                                   zeros(s, k, s.t), positions(s), {}});
      o->x.q = o->q.view(), o->x.k = o->k.view(), o->x.v = o->v.view();
      o->x.q_positions = o->x.k_positions = o->positions.view();
      o->x.scale = 1 / 16.0;
      return o;
    };
    add(s, "attention", "forward", [=](OpCase& c) {
      c.shape = shape, c.flops = 4 * f(s.Dh) * pairs;
      c.run = [o = operands()] { attention_forward(o->x, o->y.out(), o->lse.out()); };
    });
    add(s, "attention", "backward", [=](OpCase& c) {
      c.shape = shape, c.flops = 10 * f(s.Dh) * pairs;  // the scores' second computation included
      const auto o = operands();
      attention_forward(o->x, o->y.out(), o->lse.out());
      c.run = [o] { attention_backward(o->x, o->y.view(), o->lse.view(), o->dy.view(), o->dq.out(), o->dk.out(), o->dv.out()); };
    });
  }

  void geglu(const Sizes& s) {
    const auto shape = fmt::format("{} x {}", s.N(), s.F);
    const double all = s.e() * f(s.N() * s.F);
    const auto operands = [=] {
      const Shape x{s.N(), s.F};
      return std::array{noise(s, x), noise(s, x), noise(s, x), zeros(s, x, s.t), zeros(s, x, s.t)};
    };
    add(s, "geglu", "forward", [=](OpCase& c) {
      c.shape = shape, c.bytes = 3 * all;
      c.run = [o = operands()] { facet::geglu(o[0].view(), o[1].view(), o[3].out()); };
    });
    add(s, "geglu", "backward", [=](OpCase& c) {
      c.shape = shape, c.bytes = 5 * all;
      c.run = [o = operands()] { geglu_backward(o[2].view(), o[0].view(), o[1].view(), o[3].out(), o[4].out()); };
    });
  }

  void sum(const Sizes& s) {  // its gradient passes on a handle
    add(s, "add", "forward", [=](OpCase& c) {
      const Tensor a = noise(s, {s.N(), s.D}), b = noise(s, {s.N(), s.D}), y = zeros(s, {s.N(), s.D}, s.t);
      c.shape = fmt::format("{} x {}", s.N(), s.D), c.bytes = 3 * s.e() * f(s.N() * s.D);
      c.run = [=] { binary(Binary::add, a.view(), b.view(), y.out()); };
    });
  }

  void linear_cross_entropy(const Sizes& s) {
    for (const bool gradient : {false, true}) {
      add(s, "linear_cross_entropy", gradient ? "forward+backward" : "forward", [=](OpCase& c) {
        const int64_t n = s.head_rows;
        const Tensor h = noise(s, {n, s.D}), w = noise(s, {s.V, s.D}), labels = counting(1, n, 7919, s.V).reshape({n});
        const Tensor dh = gradient ? zeros(s, {n, s.D}, s.t) : Tensor{}, dw = gradient ? zeros(s, {s.V, s.D}) : Tensor{};
        c.shape = fmt::format("{} x {} x {}", n, s.D, s.V), c.flops = (gradient ? 6 : 2) * f(n * s.D * s.V);
        const Tensor losses = zeros(s, {n}, DType::f64);
        c.run = [=] {
          const LinearHead head("bench", h, w, labels, {});
          const auto loss = [&](const RowBlock& b, const Out& stats) {
            cross_entropy_rows(stats, {}, {}, {.words = head.V}, b.scale, b.of(losses).out());
          };
          head.run(head.rows([](int64_t) { return true; }), loss, gradient ? dh.out() : Out{}, gradient ? dw.out() : Out{});
        };
      });
    }
  }

  void adamw(const Sizes& s) {
    add(s, "adamw", "step", [=](OpCase& c) {
      const int64_t n = 3 * s.D * s.F;  // the feed-forward matrices of a block
      const Tensor p = noise(s, {n}, DType::f32), g = noise(s, {n}, DType::f32), m = zeros(s, {n}), v = zeros(s, {n});
      AdamwStep step;
      step.lr = 1e-4;
      c.shape = fmt::format("{}", n), c.bytes = 28 * f(n);
      c.run = [=] { facet::adamw(p.out(), {}, g.view(), m.out(), v.out(), step); };
    });
  }
};

}  // namespace

std::vector<OpCaseMaker> op_cases(DType dtype, Device device) {
  List list;
  for (Sizes s : sizes) {
    s.t = dtype, s.device = device;
    list.embedding(s);
    list.linear(s, "q", s.D, s.H * s.Dh);
    list.linear(s, "k", s.D, s.K * s.Dh);
    list.linear(s, "o", s.H * s.Dh, s.D);
    list.linear(s, "gate", s.D, s.F);
    list.linear(s, "down", s.F, s.D);
    list.rms_norm(s);
    list.norm_rope(s);
    list.attention(s);
    list.geglu(s);
    list.sum(s);
    list.linear_cross_entropy(s);
    if (dtype == DType::f32) list.adamw(s);
  }
  return std::move(list.cases);
}

std::vector<OpCaseMaker> moving_cases(int64_t tokens, int64_t width, DType dtype, Device device) {
  List list;
  const Sizes s{"1b", 1, tokens, width, 6 * width, 4, 1, 256, 0, 0, dtype, device};
  if (dtype == DType::f32) {
    list.adamw(s);
    return std::move(list.cases);
  }
  list.rms_norm(s);
  list.norm_rope(s);
  list.geglu(s);
  list.sum(s);
  return std::move(list.cases);
}

}  // namespace facet::bench
