// The memory of training: planned before a run, said and checked, and compared afterwards with what the run held.
#pragma once
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "app/console.h"
#include "app/optimizer_settings.h"
#include "nn/language_model.h"
#include "train/run_folder.h"

namespace facet::app {

/// What a run holds at its peak, in bytes.
struct MemoryPlan {
  double weights = 0, gradients = 0, moments = 0, activations = 0, other = 0;
  double workspace = 0;    ///< of a GPU library's largest product, or of its attention
  std::string other_name;  ///< what `other` is for: "cache"
  bool at_most = false;    ///< activations: what the longest rows would take, where the data decide
  Recompute recompute = Recompute::none;
  std::map<Recompute, double> activations_with;  ///< of every policy
  std::vector<std::pair<std::string, double>> parts() const;  ///< by name
  double total() const { return weights + gradients + moments + activations + workspace + other; }
  std::string text() const;
  /// Empty when a tenth more than the plan is free; else what is needed, and the first stronger policy that would do.
  std::string misfit(double free_bytes, const std::string& where = "") const;
};
/// Rows that are one document each and not padded, whose attention a GPU's library may compute.
struct PlainRows {
  int64_t rows = 0, length = 0;
};
/// Of a step whose largest micro-batch has so many tokens, and `plain` the largest of plain rows.
MemoryPlan plan_memory(LanguageModel&, int64_t tokens, const OptimizerSettings& = {}, PlainRows plain = {});
/// Says the plan. Throws Error(Kind::memory) when it does not fit into what is free on the device; a dry run says so instead.
void check_memory(const MemoryPlan&, Device, bool dry_run, Console&);

/// --mem-report, after the last step: what stays between steps, what a step adds to it, and the peak since the program began (validation and
/// samples included), each as planned and as held.
void report_memory(const MemoryPlan&, Device, RunFolder&);

/// "none", ... in the order of Recompute.
const std::vector<std::string>& recompute_names();
Recompute recompute_of(const std::string& name);

}  // namespace facet::app
