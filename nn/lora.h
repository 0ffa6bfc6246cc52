// Adapters over a model: which weights, how many, which one is in use.
#pragma once
#include <map>

#include "nn/language_model.h"
#include "nn/lora_weight.h"
#include "tensor/rng.h"

namespace facet {

struct LoraOptions {
  int64_t rank = 8;
  double alpha = 16;
  double dropout = 0;
  bool rslora = false;  ///< scale alpha / sqrt(rank) instead of alpha / rank (Kalajdzievski 2023)
  bool dora = false;
  /// Each one of: "all-linear", "embedding", a module's name or its part before "_proj" ("q", "q_proj"), or a path in which *
  /// stands for anything ("layers.*.self_attn.q_proj").
  std::vector<std::string> targets = {"all-linear"};
  std::map<std::string, int64_t> ranks = {};  ///< by module path, where they differ
  std::map<std::string, double> alphas = {};

  int64_t rank_at(const std::string& path) const;
  double alpha_at(const std::string& path) const;
  double scale(const std::string& path = "") const;
};

/// Every adapter over one model; weights are wrapped, layers and parameter names stay as they are. The wraps live as long as the model.
class Adapters {
 public:
  explicit Adapters(LanguageModel&);
  /// Freezes every parameter of the base and makes `name` the active adapter, equal to the base as yet: A uniform in
  /// 1 / sqrt(inputs) (Kaiming with a = sqrt(5), as PEFT), B zero; of an embedding A zero, B normal. It is made where the model is. Throws
  /// Error(Kind::usage) for an unknown target, naming the nearest ones.
  void add(const std::string& name, const LoraOptions&, Key);
  /// "": the base alone. Nothing is copied.
  void use(const std::string& name);
  const std::string& active() const { return active_; }
  std::vector<std::string> names() const;
  const LoraOptions& options(const std::string& name) const;

  /// What an adapter consists of, by module path, in the model's order.
  std::vector<std::pair<std::string, LoraFactors*>> factors(const std::string& name) const;
  /// Paths of all modules that an adapter could be put on.
  std::vector<std::string> modules() const;
  LanguageModel& model() const { return model_; }

 private:
  struct Place;
  std::vector<Place> places() const;

  LanguageModel& model_;
  std::map<std::string, LoraOptions> options_;
  std::string active_;
};

/// The base alone, for the lifetime of a scope: the reference policy.
class AdapterOff {
 public:
  explicit AdapterOff(Adapters& a) : adapters_(a), before_(a.active()) { a.use(""); }
  ~AdapterOff() { adapters_.use(before_); }
  AdapterOff(const AdapterOff&) = delete;

 private:
  Adapters& adapters_;
  std::string before_;
};

/// Whether a parameter's path belongs to an adapter.
bool is_adapter(const std::string& path);

/// CRC-32C over names, shapes and values of tensors, in whatever order they come.
class WeightHash {
 public:
  /// `values`: every bit counts (bf16 as the f32 it stands for). `bf16`: of the values rounded to bf16, so that a folder's weights
  /// hash alike however they are kept in memory; tells one base model from another.
  enum class Of : uint8_t { values, bf16 };
  explicit WeightHash(Of of = Of::values) : of_(of) {}
  void add(const std::string& name, const Tensor&);
  uint32_t value() const { return sum_; }

 private:
  Of of_;
  uint32_t sum_ = 0;
};
/// Of the parameters that are not adapters.
uint32_t base_hash(Module&, WeightHash::Of = WeightHash::Of::values);
std::string hash_text(uint32_t);  ///< eight hexadecimal digits

}  // namespace facet
