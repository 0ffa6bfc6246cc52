// The products of three models against one plain Eigen product, the machine's fused multiply-adds and its read bandwidth, all in
// one run. A round gives the contenders slices of some milliseconds in turn and keeps the best slice of each (neighbours on a
// shared machine halve the rest); medians of five rounds are printed.
//   bench_gemm [demo|270m|1b|decode]...      (default: all)
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "bench/gemm/peer.h"
#include "bench/support/race.h"
#include "tensor/cpu/tier.h"
#include "tensor/kernels/gemm.h"
#include "tensor/parallel.h"
#include "tensor/tensor.h"

using namespace facet;
using namespace facet::bench;

namespace {

constexpr int rounds = 5;

enum class Pass { forward, dx, dw };

// y = x w^T with x [m, in], w [out, in], or one of its gradients.
void product(const char* model, const char* name, Pass pass, int64_t m, int64_t in, int64_t out, int many) {
  const Tensor x = noise({m, in}), w = noise({out, in}), y = noise({m, out});
  const Tensor &a = pass == Pass::forward ? x : y, &b = pass == Pass::dw ? x : w;
  const Tensor c = Tensor::empty(pass == Pass::forward ? y.shape() : pass == Pass::dx ? x.shape() : w.shape());
  const View va = pass == Pass::dw ? transposed(a.view()) : a.view();
  const View vb = pass == Pass::forward ? transposed(b.view()) : b.view();
  const int64_t k = va.shape[1];
  const double flops = 2.0 * m * in * out;
  auto ours = [&] { return gemm(va, vb, c.out()), flops; };
  auto eigen = [&] {
    peer::eigen_product(a.data<float>().data(), pass == Pass::dw, b.data<float>().data(), pass == Pass::forward,
                        c.out().as<float>(), c.dim(0), c.dim(1), k);
    return flops;
  };
  std::vector<double> r_ours, r_eigen, r_many, ratio, peak, gain;
  ours(), eigen();
  for (int i = 0; i < rounds; ++i) {
    set_threads(1);
    const auto one = race({ours, eigen, multiply_adds});
    set_threads(many);
    const auto all = race({ours, multiply_adds});
    r_ours.push_back(one[0]);
    r_eigen.push_back(one[1]);
    r_many.push_back(all[0]);
    ratio.push_back(one[0] / one[1]);
    peak.push_back(100 * one[0] / one[2]);
    gain.push_back(all[0] / one[0] / (all[1] / one[2]));
  }
  const char* passes[] = {"fwd", "dx", "dw"};
  std::printf("%-5s %-9s %-3s %5lld x %5lld x %5lld  %6.1f %6.1f  %5.2f  %4.0f%%  %6.1f  %4.2f\n", model, name,
              passes[static_cast<int>(pass)], static_cast<long long>(c.dim(0)), static_cast<long long>(c.dim(1)),
              static_cast<long long>(k), median(r_ours), median(r_eigen), median(ratio), median(peak), median(r_many),
              median(gain));
  std::fflush(stdout);
}

// All weights of some 270M blocks, one token: every byte is read once.
void decode(DType dtype, int64_t rows, int many) {
  const int64_t shapes[][2] = {{1024, 640}, {256, 640}, {256, 640}, {640, 1024}, {2048, 640}, {2048, 640}, {640, 2048}};
  std::vector<Tensor> w, x, y;
  double bytes = 0;
  for (int layer = 0; layer < 8; ++layer) {
    for (auto [out, in] : shapes) {
      w.push_back(noise({out, in}).to(dtype));
      x.push_back(noise({rows, in}));
      y.push_back(Tensor::empty({rows, out}));
      bytes += static_cast<double>(out * in * size_of(dtype));
    }
  }
  const Tensor field = noise({static_cast<int64_t>(bytes) / 4});
  auto ours = [&] {
    for (size_t i = 0; i < w.size(); ++i) gemm(x[i].view(), transposed(w[i].view()), y[i].out());
    return bytes;
  };
  auto read = [&] { return bench::read(field), bytes; };
  for (int count : {1, many}) {
    set_threads(count);
    std::vector<double> r_ours, r_read, share;
    ours(), read();
    for (int i = 0; i < rounds; ++i) {
      const auto r = race({ours, read}, 0.02, 3);
      r_ours.push_back(r[0]);
      r_read.push_back(r[1]);
      share.push_back(100 * r[0] / r[1]);
    }
    std::printf("270m  decode %lld row%s %-4s %d thread%s: %5.1f GB/s of weights, read loop %5.1f, %3.0f%%\n",
                static_cast<long long>(rows), rows > 1 ? "s" : " ", name_of(dtype), count, count > 1 ? "s" : " ", median(r_ours),
                median(r_read), median(share));
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  spin_briefly(argv);
  const int many = threads();
  auto asked = [&](const char* what) {
    return argc < 2 || std::any_of(argv + 1, argv + argc, [&](const char* s) { return std::string(s) == what; });
  };
  struct Layer { const char* name; int64_t in, out; };
  struct Model { const char* name; int64_t rows; std::vector<Layer> layers; };
  const Model models[] = {
      {"demo", 3072, {{"q, o", 96, 96}, {"k, v", 96, 24}, {"gate, up", 96, 256}, {"down", 256, 96}}},
      {"270m", 512, {{"q", 640, 1024}, {"k, v", 640, 256}, {"o", 1024, 640}, {"gate, up", 640, 2048}, {"down", 2048, 640}}},
      {"1b", 512, {{"q", 1152, 1024}, {"gate, up", 1152, 6912}, {"down", 6912, 1152}}},
  };
  std::printf("tier %s, 1 and %d threads; GFLOP/s, median of %d rounds\n", cpu::name_of(cpu::current_tier()), many, rounds);
  std::printf("model product   pass    M       N       K    facet  eigen  ratio  peak  %d thr  gain / gain of FMA\n", many);
  for (const Model& m : models) {
    if (!asked(m.name)) continue;
    for (const Layer& l : m.layers)
      for (Pass p : {Pass::forward, Pass::dx, Pass::dw}) product(m.name, l.name, p, m.rows, l.in, l.out, many);
  }
  if (asked("decode"))
    for (DType d : {DType::f32, DType::bf16})
      for (int64_t rows : {1, 4, 8}) decode(d, rows, many);
}
