// Attention against the machine: visible pairs of query and key counted (4 Dh FLOPs forward, 10 Dh backward, the scores' second
// computation included), as a share of a loop of fused multiply-adds; caches streamed in decoding as a share of plain reading.
// Contenders take turns within one run and the best slice of each counts: neighbours on a shared machine halve the rest.
//   bench_attention [threads]      (default: 1)
#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "bench/support/attention_case.h"
#include "tensor/cpu/tier.h"
#include "tensor/parallel.h"
#include "tensor/tensor.h"

using namespace facet;
using namespace facet::bench;

namespace {

void training(const AttentionSizes& p) {
  AttentionCase s(p);
  s.forward();
  const double dh = static_cast<double>(p.Dh);
  const auto rate = race({multiply_adds, [&] { return s.forward(), 4 * dh * s.pairs; }, [&] { return s.backward(), 10 * dh * s.pairs; }}, 0.004, 25);
  std::printf("%-28s %8.1f %5.0f%% %9.3f ms  %8.1f %5.0f%% %9.3f ms  (fma %.0f)\n", p.name, rate[1], 100 * rate[1] / rate[0],
              4 * dh * s.pairs / rate[1] / 1e6, rate[2], 100 * rate[2] / rate[0], 10 * dh * s.pairs / rate[2] / 1e6, rate[0]);
}

void decoding(const AttentionSizes& p) {
  AttentionCase s(p);
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
  for (const AttentionSizes& p : {AttentionSizes{"demo 128 x 24", 128, 24, 24, 4, 1, 24, 0}, AttentionSizes{"demo 64 x 48", 64, 48, 48, 4, 1, 24, 0},
                           AttentionSizes{"demo 64 x 48 window 16", 64, 48, 48, 4, 1, 24, 16}, AttentionSizes{"demo 48 x 64", 48, 64, 64, 4, 1, 24, 0},
                           AttentionSizes{"270m/1b T 512", 1, 512, 512, 4, 1, 256, 0}, AttentionSizes{"270m/1b T 2048", 1, 2048, 2048, 4, 1, 256, 0},
                           AttentionSizes{"270m/1b T 2048 window 512", 1, 2048, 2048, 4, 1, 256, 512},
                           AttentionSizes{"4b T 2048 bf16", 1, 2048, 2048, 8, 4, 256, 0, DType::bf16},
                           AttentionSizes{"trunk 256, branches 4 x 128", 1, 768, 768, 4, 1, 256, 0, DType::f32, 256, 128},
                           AttentionSizes{"trunk 256, branches 16 x 128", 1, 2304, 2304, 4, 1, 256, 0, DType::f32, 256, 128},
                           AttentionSizes{"trunk 20, branches 16 x 20", 8, 340, 340, 4, 1, 24, 0, DType::f32, 20, 20}})
    training(p);
  std::printf("window 512, time of T 16384 over T 4096 (4 is linear):");
  double ms[2][2];
  for (int i = 0; i < 2; ++i) {
    const int64_t T = i ? 16384 : 4096;
    AttentionCase s({"", 1, T, T, 2, 1, 64, 512});
    const auto rate = race({[&] { return s.forward(), 1.0; }, [&] { return s.backward(), 1.0; }}, 0.001, 12);
    ms[i][0] = 1 / rate[0];
    ms[i][1] = 1 / rate[1];
  }
  std::printf(" forward %.2f, backward %.2f\n", ms[1][0] / ms[0][0], ms[1][1] / ms[0][1]);
  for (const AttentionSizes& p :
       {AttentionSizes{"decode 4/1 x 256, S 2048", 1, 1, 2048, 4, 1, 256, 0}, AttentionSizes{"decode 4/1 x 256, S 32768", 1, 1, 32768, 4, 1, 256, 0},
        AttentionSizes{"decode 4/1 x 256, bf16 32768", 1, 1, 32768, 4, 1, 256, 0, DType::bf16},
        AttentionSizes{"decode 8/4 x 256, S 8192", 1, 1, 8192, 8, 4, 256, 0}, AttentionSizes{"decode 4/1 x 256, S 512", 1, 1, 512, 4, 1, 256, 0},
        AttentionSizes{"decode 4/1 x 64, S 512", 1, 1, 512, 4, 1, 64, 0}, AttentionSizes{"decode 4/1 x 64, S 4096", 1, 1, 4096, 4, 1, 64, 0},
        AttentionSizes{"decode 4/4 x 64, S 1024", 1, 1, 1024, 4, 4, 64, 0}, AttentionSizes{"decode demo, 64 rows, S 64", 64, 1, 64, 4, 1, 24, 0},
        AttentionSizes{"decode demo, 256 rows, S 60", 256, 1, 60, 4, 1, 24, 0}})
    decoding(p);
}
