#include <array>
#include <cmath>

#include "app/check/checks.h"
#include "autograd/ops.h"

namespace facet::app {
namespace {

// How many results are 0, 1, 2, 3 to 4, 5 to 8, ... units in the last place away from where they should be.
struct Histogram {
  std::array<int64_t, 10> count{};
  void add(const Tensor& got, const Tensor& want) {
    const std::vector<double> a = got.to_vector(), b = want.to_vector();
    for (size_t i = 0; i < a.size(); ++i) {
      const int64_t ulps = ulp_distance(a[i], b[i], want.dtype());
      size_t bin = 0;
      for (int64_t most = 0; bin + 1 < count.size() && ulps > most; most = most < 2 ? most + 1 : 2 * most) ++bin;
      ++count[bin];
    }
  }
  std::string text() const {
    int64_t all = 0;
    for (const int64_t n : count) all += n;
    std::string lines = "distance in units of the last place, all blocks together\n";
    int64_t least = 0, most = 0;
    for (size_t i = 0; i < count.size(); ++i) {
      const std::string range = i + 1 == count.size() ? fmt::format("{} and more", least) : least == most ? fmt::format("{}", least) : fmt::format("{} to {}", least, most);
      const double share = all ? static_cast<double>(count[i]) / static_cast<double>(all) : 0;
      if (count[i]) lines += fmt::format("{:>14} {:>10} {:5.1f}% {}\n", range, count[i], 100 * share, std::string(static_cast<size_t>(std::ceil(40 * share)), '#'));
      least = most + 1;
      most = most < 2 ? most + 1 : 2 * most;
    }
    lines.pop_back();
    return lines;
  }
};

}  // namespace

void check_mlp(Gemma& model, uint64_t seed, bool fused_vs_split, CheckReport& report) {
  const NoGrad off;
  constexpr int64_t rows = 64;
  const Tolerance rounding{.of_rms = model.compute() == DType::bf16 ? 3e-2 : 1e-5};
  Histogram distances;
  for (size_t i = 0; i < model.blocks.size(); ++i) {
    const std::string name = fmt::format("layers.{}.mlp", i);
    if (!report.wanted(name)) continue;
    const GatedMlp& mlp = model.blocks[i]->mlp;
    const Tensor x = normal(fold_in(key(seed), static_cast<uint32_t>(i)), {rows, model.config.width}).to(model.compute()).to(model.device());
    const auto block = [&](const Tensor& gate, const Tensor& up) { return mlp.down_proj(mul(gelu_tanh(gate), up)).to(Device::cpu); };
    const Tensor split = block(mlp.gate_proj(x), mlp.up_proj(x));
    report.add(compare(name, mlp(x).to(Device::cpu), split, {}, rounding));
    if (!fused_vs_split) continue;
    const int64_t F = model.config.hidden;
    const Tensor both = linear(x, concat({*mlp.gate_proj.weight->plain(), *mlp.up_proj.weight->plain()}, 0));  // [rows, 2 F]
    const Tensor fused = block(slice(both, 1, 0, F), slice(both, 1, F, 2 * F));
    report.add(compare(name + " fused", fused, split, {}, rounding));
    distances.add(fused, split);
  }
  if (fused_vs_split) report.remark(distances.text());
}

}  // namespace facet::app
