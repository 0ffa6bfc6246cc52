// Whether training moves every parameter that it should: asked once, early in a run, because a learning rate without effect and a
// parameter without gradient look like training until the end.
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

}  // namespace facet
