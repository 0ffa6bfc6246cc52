// Where a NaN or an infinity came from. While an Anomaly lives, the results of every recorded operation and every gradient that backward
// passes on are looked at, and the first that is not finite is described: the operation, whether forward or backward made it, the module it
// belongs to, where that was entered, and the ranges of what it was made from. Nobody looking, an operation costs one comparison more.
//
//   Anomaly look(parameters(model));
//   backward(loss(model));
//   if (!look.found().empty()) ...   // "forward, geglu made ... in layers.3.mlp (nn/layers.cpp:104, operation 2), from ..."
#pragma once
#include <map>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "autograd/parameter.h"
#include "autograd/scopes.h"

namespace facet {

/// What a tensor's numbers are like.
struct Range {
  double least = 0, greatest = 0;  ///< of the finite ones; NaN if there are none
  int64_t bad = 0, count = 0;      ///< bad: NaN or infinite
};
/// Of floating-point tensors on any device.
Range range_of(const Tensor&);

class Anomaly {
 public:
  /// `named`: parameters that messages may call by their names.
  explicit Anomaly(std::span<Parameter* const> named = {});
  ~Anomaly();
  Anomaly(const Anomaly&) = delete;

  /// The first value that was not finite, or "".
  const std::string& found() const { return found_; }

  // ---- called by the tape

  void made(const Node&, std::span<Tensor* const> y, std::span<const Tensor* const> x);
  void begins(const Node& root, uint16_t output, const Tensor& dy);
  void passed(const Node&);
  /// What was recorded since `sequence` will have no backward.
  void dropped(uint64_t after);

 private:
  struct Made {
    std::string place;
    std::vector<std::string> outputs;  ///< "geglu [2, 5, 40] -1.5 to 3"
  };
  using Gradient = std::pair<uint64_t, uint16_t>;  // of which output of which node
  std::string name_of_input(const Tensor&) const;

  Anomaly* before_;
  std::string found_;
  std::unordered_map<const Opaque*, std::string> names_;
  std::unordered_map<uint64_t, Made> made_;     ///< by Node::sequence, until its backward has run
  std::map<Gradient, std::string> gradients_;  ///< what is on its way, described
};

/// Who looks on this thread, or null.
Anomaly* anomaly_watch();

}  // namespace facet
