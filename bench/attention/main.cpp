// Attention against the machine: visible pairs of query and key counted (4 Dh FLOPs forward, 10 Dh backward, the scores' second
// computation included), as a share of a loop of fused multiply-adds; caches streamed in decoding as a share of plain reading.
// Contenders take turns within one run and the best slice of each counts: neighbours on a shared machine halve the rest.
//   bench_attention [threads]      (default: 1)
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "bench/support/race.h"
#include "tensor/cpu/tier.h"
#include "tensor/kernels/attention.h"
#include "tensor/parallel.h"
#include "tensor/tensor.h"

using namespace facet;
using namespace facet::bench;

namespace {

struct Problem {
  const char* name;
  int64_t B, T, S, H, K, Dh, window;
  DType dtype = DType::f32;
  int64_t trunk = 0, branch = 0;  ///< tokens of a prompt and of each of its completions, in one row; 0: a plain sequence
};

struct Setup {
  Tensor q, k, v, dy, y, lse, dq, dk, dv, q_positions, k_positions, segments;
  AttentionInputs x;
  double pairs = 0;

  explicit Setup(const Problem& p)
      : q(noise({p.B, p.T, p.H, p.Dh}, p.dtype)), k(noise({p.B, p.S, p.K, p.Dh}, p.dtype)), v(noise({p.B, p.S, p.K, p.Dh}, p.dtype)),
        dy(noise(q.shape(), p.dtype)), y(Tensor::empty(q.shape(), p.dtype)), lse(Tensor::empty({p.B, p.H, p.T})),
        dq(Tensor::empty(q.shape(), p.dtype)), dk(Tensor::empty(k.shape(), p.dtype)), dv(Tensor::empty(k.shape(), p.dtype)) {
    std::vector<int32_t> qp, kp, number;
    for (int64_t b = 0; b < p.B; ++b) {
      for (int64_t t = 0; t < p.T; ++t) {
        const bool branches = p.trunk > 0 && t >= p.trunk;
        qp.push_back(static_cast<int32_t>(branches ? p.trunk + (t - p.trunk) % p.branch : p.S - p.T + t));
        number.push_back(static_cast<int32_t>(65536 + (branches ? 1 + (t - p.trunk) / p.branch : 0)));
        const int64_t sees = qp.back() + 1;
        pairs += static_cast<double>(p.H) * static_cast<double>(p.window ? std::min(p.window, sees) : sees);
      }
      for (int64_t s = 0; s < p.S; ++s) kp.push_back(p.trunk > 0 ? qp[static_cast<size_t>(b * p.T + s)] : static_cast<int32_t>(s));
    }
    q_positions = Tensor::from(qp, {p.B, p.T});
    k_positions = Tensor::from(kp, {p.B, p.S});
    x.q = q.view(), x.k = k.view(), x.v = v.view();
    x.q_positions = q_positions.view(), x.k_positions = k_positions.view();
    if (p.trunk > 0) {
      segments = Tensor::from(number, {p.B, p.T});
      x.q_segments = x.k_segments = segments.view();
    }
    x.window = p.window;
    x.scale = 1 / 16.0;
  }
  void forward() { attention_forward(x, y.out(), lse.out()); }
  void backward() { attention_backward(x, y.view(), lse.view(), dy.view(), dq.out(), dk.out(), dv.out()); }
};

void training(const Problem& p) {
  Setup s(p);
  s.forward();
  const double dh = static_cast<double>(p.Dh);
  const auto rate = race({multiply_adds, [&] { return s.forward(), 4 * dh * s.pairs; }, [&] { return s.backward(), 10 * dh * s.pairs; }}, 0.004, 25);
  std::printf("%-28s %8.1f %5.0f%% %9.3f ms  %8.1f %5.0f%% %9.3f ms  (fma %.0f)\n", p.name, rate[1], 100 * rate[1] / rate[0],
              4 * dh * s.pairs / rate[1] / 1e6, rate[2], 100 * rate[2] / rate[0], 10 * dh * s.pairs / rate[2] / 1e6, rate[0]);
}

void decoding(const Problem& p) {
  Setup s(p);
  const Tensor memory = Tensor::zeros({int64_t{1} << 25});
  const double bytes = 2.0 * static_cast<double>(s.k.numel() * size_of(p.dtype));
  const auto rate = race({[&] { return read(memory); }, [&] { return attention_forward(s.x, s.y.out(), Out{}), bytes; }}, 0.004, 25);
  std::printf("%-28s %8.1f GB/s %5.0f%% of reading (%.1f)  %9.1f us\n", p.name, rate[1], 100 * rate[1] / rate[0], rate[0],
              bytes / rate[1] / 1e3);
}

}  // namespace

int main(int argc, char** argv) {
  spin_briefly(argv);
  set_threads(argc > 1 ? std::atoi(argv[1]) : 1);
  std::printf("threads %d, tier %s\n%-28s %14s %27s\n", threads(), cpu::name_of(cpu::current_tier()), "", "forward GFLOP/s",
              "backward GFLOP/s");
  for (const Problem& p : {Problem{"demo 128 x 24", 128, 24, 24, 4, 1, 24, 0}, Problem{"demo 64 x 48", 64, 48, 48, 4, 1, 24, 0},
                           Problem{"demo 64 x 48 window 16", 64, 48, 48, 4, 1, 24, 16}, Problem{"demo 48 x 64", 48, 64, 64, 4, 1, 24, 0},
                           Problem{"270m/1b T 512", 1, 512, 512, 4, 1, 256, 0}, Problem{"270m/1b T 2048", 1, 2048, 2048, 4, 1, 256, 0},
                           Problem{"270m/1b T 2048 window 512", 1, 2048, 2048, 4, 1, 256, 512},
                           Problem{"4b T 2048 bf16", 1, 2048, 2048, 8, 4, 256, 0, DType::bf16},
                           Problem{"trunk 256, branches 4 x 128", 1, 768, 768, 4, 1, 256, 0, DType::f32, 256, 128},
                           Problem{"trunk 256, branches 16 x 128", 1, 2304, 2304, 4, 1, 256, 0, DType::f32, 256, 128},
                           Problem{"trunk 20, branches 16 x 20", 8, 340, 340, 4, 1, 24, 0, DType::f32, 20, 20}})
    training(p);
  std::printf("window 512, time of T 16384 over T 4096 (4 is linear):");
  double ms[2][2];
  for (int i = 0; i < 2; ++i) {
    const int64_t T = i ? 16384 : 4096;
    Setup s({"", 1, T, T, 2, 1, 64, 512});
    const auto rate = race({[&] { return s.forward(), 1.0; }, [&] { return s.backward(), 1.0; }}, 0.001, 12);
    ms[i][0] = 1 / rate[0];
    ms[i][1] = 1 / rate[1];
  }
  std::printf(" forward %.2f, backward %.2f\n", ms[1][0] / ms[0][0], ms[1][1] / ms[0][1]);
  for (const Problem& p :
       {Problem{"decode 4/1 x 256, S 2048", 1, 1, 2048, 4, 1, 256, 0}, Problem{"decode 4/1 x 256, S 32768", 1, 1, 32768, 4, 1, 256, 0},
        Problem{"decode 4/1 x 256, bf16 32768", 1, 1, 32768, 4, 1, 256, 0, DType::bf16},
        Problem{"decode 8/4 x 256, S 8192", 1, 1, 8192, 8, 4, 256, 0}, Problem{"decode 4/1 x 256, S 512", 1, 1, 512, 4, 1, 256, 0},
        Problem{"decode 4/1 x 64, S 512", 1, 1, 512, 4, 1, 64, 0}, Problem{"decode 4/1 x 64, S 4096", 1, 1, 4096, 4, 1, 64, 0},
        Problem{"decode 4/4 x 64, S 1024", 1, 1, 1024, 4, 4, 64, 0}, Problem{"decode demo, 64 rows, S 64", 64, 1, 64, 4, 1, 24, 0},
        Problem{"decode demo, 256 rows, S 60", 256, 1, 60, 4, 1, 24, 0}})
    decoding(p);
}
