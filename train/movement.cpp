#include "train/movement.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tensor/gpu/waits.h"
#include "tensor/io/crc32c.h"

namespace facet {
namespace {

uint32_t sum_of(const Parameter& p) {
  const Tensor value = p.value().detach().to(Device::cpu);
  return crc32c(value.view().data, static_cast<size_t>(value.numel() * size_of(value.dtype())));
}

}  // namespace

Movement::Movement(const std::vector<Parameter*>& parameters) {
  for (Parameter* p : parameters)
    if (p->trains()) before_.emplace_back(p, sum_of(*p));
}

std::string Movement::after_update() {
  constexpr int asked = 2;
  constexpr size_t shown = 3;
  if (++updates_ != asked) return {};
  std::vector<std::string> still;
  for (const auto& [p, sum] : before_)
    if (sum_of(*p) == sum) still.push_back(p->name);
  const size_t all = before_.size(), n = still.size();
  before_.clear();
  if (n == 0) return {};
  if (n > shown) still.resize(shown);
  return fmt::format("after {} updates {} of {} parameters that train have not changed: {}{}; is --lr too small, or does nothing use them?", asked, n, all,
                     fmt::join(still, ", "), n > shown ? ", ..." : "");
}

namespace {

constexpr int64_t look_every = 100, most_sampled = 4096;
constexpr double large = 0.1;  // of the weights' root mean square

std::vector<double> sample_of(const Parameter& p) {
  const gpu::MaySync wait;  // some kilobytes, every hundred steps
  const Tensor flat = p.value().detach().reshape({p.value().numel()});
  const int64_t n = std::min(flat.numel(), most_sampled), begin = (flat.numel() - n) / 2;
  return flat.slice(0, begin, begin + n).to(Device::cpu).to_vector();
}

}  // namespace

bool UpdateSize::before(int64_t step) {
  if (said_ || step % look_every != 0 || step <= from_) return false;
  samples_.clear();
  for (Parameter* p : all_)
    if (p->trains() && p->value().rank() == 2) samples_.emplace_back(p, sample_of(*p));
  return true;
}

std::string UpdateSize::after() {
  std::string worst;
  double most = large;
  for (const auto& [p, old] : samples_) {
    const std::vector<double> now = sample_of(*p);
    double moved = 0, size = 0;
    for (size_t i = 0; i < old.size(); ++i) moved += (now[i] - old[i]) * (now[i] - old[i]), size += old[i] * old[i];
    if (const double share = std::sqrt(moved / size); share > most) most = share, worst = p->name;
  }
  samples_.clear();
  if (worst.empty()) return {};
  said_ = true;
  return fmt::format("one update changes {} by {:.0f}% of its size, above {:.0f}%: lower --lr?", worst, 100 * most, 100 * large);
}

}  // namespace facet
