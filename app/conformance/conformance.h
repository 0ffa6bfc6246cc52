// What `facet conformance` runs on a GPU, real or emulated: every part compares it with the CPU or with numbers from elsewhere, and measures it.
// A part reports findings; the record of all of them is one JSON value.
#pragma once
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "app/console.h"

namespace facet::app {

using Figures = std::vector<std::pair<std::string, double>>;

enum class Verdict : uint8_t {
  passed,
  failed,
  measured,  ///< a figure, neither right nor wrong
};
const char* name_of(Verdict);

struct Finding {
  std::string section, name;
  Verdict verdict = Verdict::passed;
  std::string detail;
  Figures figures;
  double seconds = 0;
};

/// What a check says of itself.
struct Outcome {
  bool ok = true;
  std::string detail;
  Figures figures = {};
};

/// What is asked of a figure on one H200, and what is aimed at. At least so much, or at most.
struct Bound {
  double accepted, goal;
  bool most = false;
};
/// Says beside the figure of this name, already there, how it stands.
void weigh(Outcome&, const std::string& figure, const Bound&);

class Conformance {
 public:
  /// `tiny`: sizes for an emulated device, which takes a million times as long.
  Conformance(Console& console, bool tiny, uint64_t seed) : console(console), tiny(tiny), seed(seed) {}

  Console& console;
  const bool tiny;
  const uint64_t seed;

  void begin(const std::string& section);
  /// One check. What it throws is its failure; where the device is lost with it, it is thrown again, since no other check can run.
  void check(const std::string& name, const std::function<Outcome()>&);
  /// One figure, with the same care.
  void measure(const std::string& name, const std::function<Outcome()>&);
  void add(Finding);

  const std::vector<Finding>& findings() const { return findings_; }
  int64_t count(Verdict) const;

 private:
  void run(const std::string& name, const std::function<Outcome()>&, Verdict good);

  std::string section_;
  std::vector<Finding> findings_;
};

/// The limits of the device, measured in this run; what speeds are shares of.
struct Probe {
  double flops_per_s = 0, bytes_per_s = 0;
};
struct ProbeSize {
  int64_t product = 8192;  ///< rows, columns and depth of a bf16 product
  int64_t copy_mb = 2048;
};
Probe probe(Conformance&, const ProbeSize&);

/// After an error: whether it was one of those that no later call survives.
bool device_is_lost();

/// Bounds are for one kind of GPU, at full size.
bool has_bounds(const Conformance&);

void conform_ops(Conformance&);
/// What NVIDIA's libraries compute, against the own kernels.
void conform_libraries(Conformance&);
void conform_model(Conformance&);
void conform_train(Conformance&);
void conform_decode(Conformance&);
void time_moves(Conformance&, const Probe&);
void time_training(Conformance&, const Probe&);
void time_decoding(Conformance&, const Probe&);

}  // namespace facet::app
