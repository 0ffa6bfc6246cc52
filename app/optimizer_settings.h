// Which optimizer a run uses, with its settings: --optimizer, --wd, --beta1, --beta2, --moments, --master, --momentum.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "app/options.h"
#include "nn/module.h"
#include "optim/optimizer.h"

namespace facet::app {

struct OptimizerSettings {
  std::string name = "adamw";
  double weight_decay = 0, momentum = 0.9;
  std::string moments = "f32", master = "f32";  ///< adamw: what m and v are kept in; "none": bf16 weights have no f32 copy
  std::optional<double> beta1, beta2;  ///< absent: 0.9 and 0.95, Lion: 0.9 and 0.99

  void declare(Options&);
  /// Over the parameters that train. `seed`: of what is rounded by chance.
  std::unique_ptr<Optimizer> make(Module&, uint64_t seed) const;
  /// What make() will take of the pool for such a parameter.
  double state_bytes(const Parameter&) const;
  /// Default rates are AdamW's times this: Lion moves every element by the rate, Adafactor's rates are shares of a parameter's size, and
  /// SGD's meet bare gradients.
  double rate_factor() const { return kind() == "lion" ? 0.3 : kind() == "adafactor" || kind() == "sgd" ? 50 : 1; }
  /// What decides the numbers, for a resumed run to share.
  std::map<std::string, std::string> identity() const;

 private:
  /// Adam is AdamW whose weights do not decay.
  std::string kind() const { return name == "adam" ? "adamw" : name; }
  double first() const { return beta1.value_or(0.9); }
  double second() const { return beta2.value_or(kind() == "lion" ? 0.99 : 0.95); }
};

/// All parameters that train: matrices decay, vectors (norms) do not.
std::vector<ParameterGroup> parameter_groups(Module&, double weight_decay);

}  // namespace facet::app
