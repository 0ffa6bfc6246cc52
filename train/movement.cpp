#include "train/movement.h"

#include <fmt/format.h>

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

}  // namespace facet
