#include "nn/dropout.h"

#include <utility>

namespace facet {
namespace {
thread_local std::optional<Key> current;
}

DropoutScope::DropoutScope(std::optional<Key> k) : before_(std::exchange(current, k)) {}
DropoutScope::~DropoutScope() { current = before_; }
std::optional<Key> dropout_key() { return current; }

}  // namespace facet
