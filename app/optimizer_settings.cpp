#include "app/optimizer_settings.h"

#include <algorithm>

#include "optim/adafactor.h"
#include "optim/adamw.h"
#include "optim/lion.h"
#include "optim/sgd.h"
#include "tensor/error.h"
#include "tensor/size_classes.h"

namespace facet::app {

void OptimizerSettings::declare(Options& o) {
  o.add("optimizer", &name, "how gradients become updates; adam is adamw without --wd, adafactor keeps the least, sgd takes no --wd and no bf16 weights")
      .alias({"optim"}).choices({"adamw", "adam", "lion", "adafactor", "sgd"});
  o.add("wd", &weight_decay, "decoupled weight decay of matrices").alias({"weight-decay"}).range(0, 10);
  o.add("beta1", &beta1, "adamw, lion; default 0.9").alias({"adam-beta1"}).range(0, 1);
  o.add("beta2", &beta2, "adamw, lion; default 0.95, for lion 0.99").alias({"adam-beta2"}).range(0, 1);
  o.add("moments", &moments, "what adamw keeps its two averages in; bf16, rounded by chance, takes half the memory").choices({"f32", "bf16"});
  o.add("master", &master, "adamw's f32 copy of bf16 weights; none: the weights themselves are updated, and rounded by chance").choices({"f32", "none"});
  o.add("momentum", &momentum, "sgd").range(0, 1);
  o.rule([this, &o]() -> std::string {
    const auto unused = [&](const char* option, std::initializer_list<const char*> users) {
      return std::as_const(o).find(option)->layer() == Layer::flag && std::none_of(users.begin(), users.end(), [&](const char* u) { return kind() == u; });
    };
    if (name == "adam" && weight_decay > 0) return "--wd does not go with --optimizer adam; adamw decays weights";
    for (const char* option : {"beta1", "beta2"})
      if (unused(option, {"adamw", "lion"})) return fmt::format("--{} has no effect with --optimizer {}; adamw and lion have betas", option, name);
    for (const char* option : {"moments", "master"})
      if (unused(option, {"adamw"})) return fmt::format("--{} has no effect with --optimizer {}; it is for adamw", option, name);
    if (unused("momentum", {"sgd"})) return fmt::format("--momentum has no effect with --optimizer {}; sgd has one", name);
    return {};
  });
}

std::unique_ptr<Optimizer> OptimizerSettings::make(Module& model, uint64_t seed) const {
  const auto groups = parameter_groups(model, weight_decay);
  if (kind() == "lion") return std::make_unique<Lion>(groups, LionOptions{.beta1 = first(), .beta2 = second()});
  if (kind() == "adafactor") return std::make_unique<Adafactor>(groups);
  if (kind() == "sgd") return std::make_unique<Sgd>(groups, SgdOptions{.momentum = momentum});
  return std::make_unique<AdamW>(groups, AdamWOptions{.beta1 = first(), .beta2 = second(), .bf16_moments = moments == "bf16",
                                                      .master = master == "f32", .key = fold_in(key(seed), 0xadab16u)});
}

double OptimizerSettings::state_bytes(const Parameter& p) const {
  const Shape& s = p.value().shape();
  const auto buffer = [](int64_t elements, int64_t bytes = 4) { return static_cast<double>(size_classes::rounded(static_cast<size_t>(elements * bytes))); };
  const int64_t n = s.numel();
  const double copy = p.value().dtype() == DType::bf16 ? buffer(n) : 0;
  if (kind() == "sgd") return momentum > 0 ? buffer(n) : 0;
  if (kind() == "lion") return copy + buffer(n);
  if (kind() == "adafactor") return copy + (is_factored(s, {}) ? buffer(s[0]) + buffer(s[1]) : buffer(n));
  return (master == "f32" ? copy : 0) + 2 * buffer(n, moments == "bf16" ? 2 : 4);
}

std::map<std::string, std::string> OptimizerSettings::identity() const {
  std::map<std::string, std::string> settings = {{"wd", fmt::format("{}", weight_decay)}};
  if (kind() != "adamw") settings["optimizer"] = kind();  // runs from before there was a choice are AdamW's
  if (kind() == "adamw" || kind() == "lion") settings.insert({{"beta1", fmt::format("{}", first())}, {"beta2", fmt::format("{}", second())}});
  if (kind() == "adamw" && moments != "f32") settings["moments"] = moments;
  if (kind() == "adamw" && master != "f32") settings["master"] = master;
  if (kind() == "sgd") settings["momentum"] = fmt::format("{}", momentum);
  return settings;
}

std::vector<ParameterGroup> parameter_groups(Module& model, double weight_decay) {
  ParameterGroup matrices, vectors;
  matrices.weight_decay = weight_decay;
  for (Parameter* p : parameters(model))
    if (p->trains()) (p->value().rank() > 1 ? matrices : vectors).parameters.push_back(p);
  return {matrices, vectors};
}

}  // namespace facet::app
