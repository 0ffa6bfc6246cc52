#include "nn/tap.h"

namespace facet {
namespace {
thread_local Taps* listener = nullptr;
thread_local std::string prefix;
}  // namespace

Taps::Taps(Observer o) : observer_(std::move(o)), before_(listener) { listener = this; }
Taps::~Taps() { listener = before_; }
bool tapping() { return listener != nullptr; }
void tap(const char* name, const Tensor& value) {
  if (listener) listener->observer_(prefix + name, value);
}

TapScope::TapScope(const char* name, int64_t index, std::source_location where) : module_(name, index, where), length_(prefix.size()) {
  if (listener) prefix += fmt::format("{}.{}.", name, index);
}
TapScope::~TapScope() { prefix.resize(length_); }

}  // namespace facet
