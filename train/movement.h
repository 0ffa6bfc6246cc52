// Whether training moves every parameter that it should, and none too far. The first is asked once, early in a run, because a learning rate
// without effect and a parameter without gradient look like training until the end.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "autograd/parameter.h"

namespace facet {

class Movement {
 public:
  /// Remembers a checksum of each parameter that trains.
  explicit Movement(const std::vector<Parameter*>&);
  /// After an update that had a gradient and a rate. The second one answers, later ones nothing: of an adapter's two matrices
  /// one starts at zero, so the other has no gradient in the first. Empty when all moved, else a warning with names.
  std::string after_update();

 private:
  std::vector<std::pair<Parameter*, uint32_t>> before_;
  int updates_ = 0;
};

/// Whether an update is small beside what it changes: asked every hundred steps, of matrices (a norm's weights may be near zero and move far),
/// by a sample out of the middle of each.
class UpdateSize {
 public:
  /// `warmup`: steps in which rates are not what they will be.
  UpdateSize(const std::vector<Parameter*>& all, int64_t warmup) : all_(all), from_(warmup) {}
  /// Before the update of step `step`, from 1: true when it looks, and after() wants to be called.
  bool before(int64_t step);
  /// Empty when all is well, else a warning with names; it comes once.
  std::string after();

 private:
  const std::vector<Parameter*>& all_;
  int64_t from_;
  bool said_ = false;
  std::vector<std::pair<Parameter*, std::vector<double>>> samples_;
};

}  // namespace facet
