#include "app/memory_plan.h"

#include <algorithm>
#include <map>

#include "app/machine.h"
#include "nn/layers.h"
#include "tensor/gpu/gemm.h"
#include "tensor/gpu/runtime.h"
#include "tensor/io/text.h"
#include "tensor/size_classes.h"
#include "tensor/storage.h"

namespace facet::app {
namespace {

std::string bytes_text(double n) { return human_bytes(static_cast<uint64_t>(n)); }

double pool_bytes(int64_t elements, DType t) { return static_cast<double>(size_classes::rounded(static_cast<size_t>(elements * size_of(t)))); }

/// Of the panels that adapted matrices lie in on a GPU, those matrices included.
double panel_bytes(Module& model) {
  struct Find : Visitor {
    std::map<const void*, double> panels;
    void parameter(const std::string&, Parameter&) override {}
    void enter(const std::string&, Module& m) override {
      const auto* l = dynamic_cast<const Linear*>(&m);
      const Tensor p = l ? l->weight->panel() : Tensor{};
      if (p) panels[p.view().data] = pool_bytes(p.dim(0) * p.stride()[0], p.dtype());
    }
  } find;
  find("", model);
  double bytes = 0;
  for (const auto& [at, n] : find.panels) bytes += n;
  return bytes;
}

}  // namespace

const std::vector<std::string>& recompute_names() {
  static const std::vector<std::string> names = {"none", "norms", "mlp", "block"};
  return names;
}

Recompute recompute_of(const std::string& name) {
  const auto& names = recompute_names();
  return static_cast<Recompute>(std::find(names.begin(), names.end(), name) - names.begin());
}

std::vector<std::pair<std::string, double>> MemoryPlan::parts() const {
  std::vector<std::pair<std::string, double>> list = {{"weights", weights}, {"gradients", gradients}, {"optimizer", moments}, {"activations", activations}};
  if (workspace > 0) list.emplace_back("workspace", workspace);
  if (other > 0) list.emplace_back(other_name, other);
  return list;
}

std::string MemoryPlan::text() const {
  return fmt::format("{} (weights {}, gradients {}, optimizer {}, activations {} {}{}{})", bytes_text(total()), bytes_text(weights),
                     bytes_text(gradients), bytes_text(moments), at_most ? "up to" : "about", bytes_text(activations),
                     workspace > 0 ? fmt::format(", workspace {}", bytes_text(workspace)) : "",
                     other > 0 ? fmt::format(", {} {}", other_name, bytes_text(other)) : "");
}

MemoryPlan plan_memory(LanguageModel& model, int64_t tokens, const OptimizerSettings& optimizer, PlainRows plain) {
  MemoryPlan plan;
  plan.weights = panel_bytes(model);
  for (Parameter* p : parameters(model)) {
    const DType dtype = p->value().dtype();
    const auto bytes = [n = p->value().numel()](DType t) { return pool_bytes(n, t); };
    if (!p->value().room()) plan.weights += bytes(dtype);
    if (!p->trains()) continue;
    plan.gradients += bytes(acc_dtype(dtype));
    plan.moments += optimizer.state_bytes(*p);
  }
  plan.recompute = model.recompute;
  for (const std::string& name : recompute_names())
    plan.activations_with[recompute_of(name)] = model.activation_bytes(static_cast<double>(tokens), recompute_of(name));
  plan.activations = plan.activations_with[plan.recompute];
  if (model.device() == Device::gpu)  // one after the other
    plan.workspace = std::max(static_cast<double>(gpu::gemm_workspace()), model.attention_workspace(plain.rows, plain.length));
  return plan;
}

std::string MemoryPlan::misfit(double free_bytes, const std::string& where) const {
  const auto fits = [&](double bytes) { return bytes * 1.1 <= free_bytes; };
  if (fits(total())) return {};
  std::string way = "try --adapter lora, a larger --accum or a shorter --max-len";
  for (const auto& [policy, bytes] : activations_with) {
    const double need = total() - activations + bytes;
    if (policy <= recompute || !fits(need)) continue;
    way = fmt::format("--recompute {} would need {}", recompute_names()[static_cast<size_t>(policy)], bytes_text(need));
    break;
  }
  return fmt::format("needs {}, {} free{}; {}", text(), bytes_text(free_bytes), where, way);
}

void check_memory(const MemoryPlan& plan, Device device, bool dry_run, Console& console) {
  console.note("memory: {}", plan.text());
  const bool gpu = device == Device::gpu;
  // The weights are there already.
  const double free = gpu ? static_cast<double>(gpu::free_bytes()) + plan.weights : static_cast<double>(machine().free_bytes);
  const std::string misfit = free > 0 ? plan.misfit(free, gpu ? " on the GPU" : "") : "";
  if (misfit.empty()) return;
  if (!dry_run) fail(Kind::memory, "{}", misfit);
  console.line("does not fit: {}", misfit);
}

void report_memory(const MemoryPlan& plan, Device device, RunFolder& run) {
  const PoolStats pool = pool_stats(device);
  const bool gradients_stay = device == Device::gpu;  // captured passes add to them by address
  const double staying = plan.weights + plan.moments + (gradients_stay ? plan.gradients : 0);
  const auto live = static_cast<double>(pool.live_bytes), peak = static_cast<double>(pool.peak_bytes);
  run.say("memory report:         planned        held");
  const auto row = [&](const char* name, double planned, double held, const std::string& rest) {
    run.say(fmt::format("  {:<16}{:>12}{:>12}  {}", name, bytes_text(planned), bytes_text(held), rest));
  };
  row("stays", staying, live, gradients_stay ? "weights, gradients, optimizer" : "weights, optimizer");
  row("a step adds", plan.total() - staying, peak - live, fmt::format("{}activations{}{}", gradients_stay ? "" : "gradients, ", plan.other > 0 ? ", " : "", plan.other_name));
  row("peak", plan.total(), peak, fmt::format("{:.0f}% of the plan{}", 100 * peak / plan.total(), plan.at_most ? ", which is of the longest rows there may be" : ""));
}

}  // namespace facet::app
