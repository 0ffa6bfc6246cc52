// Taps: intermediate values by name, for checks and dumps. Without an observer a tap is one comparison.
#pragma once
#include <functional>
#include <string>

#include "autograd/anomaly.h"

namespace facet {

/// Gets every tapped value of the forward passes in its lifetime: path ("layers.3.q_rope") and tensor.
class Taps {
 public:
  using Observer = std::function<void(const std::string& path, const Tensor& value)>;
  explicit Taps(Observer);
  ~Taps();
  Taps(const Taps&) = delete;

 private:
  Observer observer_;
  Taps* before_;
  friend void tap(const char*, const Tensor&);
};

/// True while somebody listens: work done only for a tap hides behind it.
bool tapping();
void tap(const char* name, const Tensor& value);

/// Prefix of the taps in its lifetime, and a ModuleScope: TapScope("layers", 3).
class TapScope {
 public:
  TapScope(const char* name, int64_t index, std::source_location where = std::source_location::current());
  ~TapScope();
  TapScope(const TapScope&) = delete;

 private:
  ModuleScope module_;
  size_t length_;
};

}  // namespace facet
