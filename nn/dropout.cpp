#include "nn/dropout.h"

#include "autograd/ops.h"
#include "autograd/recorded_dropout.h"

namespace facet {
namespace {
thread_local std::optional<DropoutKey> current;
}

DropoutScope::DropoutScope(std::optional<DropoutKey> k) : before_(std::exchange(current, std::move(k))) {}
DropoutScope::~DropoutScope() { current = before_; }
std::optional<DropoutKey> dropout_key() { return current; }

Tensor dropout(const Tensor& x, double p, const DropoutKey& k, uint32_t salt) {
  return k.words ? dropout(x, p, k.words, salt) : dropout(x, p, fold_in(k.key, salt));
}

}  // namespace facet
