// What to paste into an issue: everything that decides how this build computes.
#include <nlohmann/json.hpp>

#include <cstdlib>

#include "app/command.h"
#include "app/gpu_facts.h"
#include "app/machine.h"
#include "app/version.h"
#include "tensor/cpu/tier.h"
#include "tensor/io/durable.h"
#include "tensor/parallel.h"

namespace facet::app {
namespace {

struct Settings : Common {
  void declare(Options&) {}
};

std::string tiers() {
  std::string out = cpu::name_of(cpu::current_tier());
  if (cpu::current_tier() != cpu::best_tier()) out += " (FACET_TIER)";
  out += ", can run: portable";
  for (cpu::Tier t : {cpu::Tier::avx2, cpu::Tier::avx512})
    if (t <= cpu::best_tier()) out += std::string(" ") + cpu::name_of(t);
  return out;
}

int run(Settings& s, Options&, Console& console) {
  const Machine& m = machine();
  const Threads t = choose_threads(s.threads);
  set_threads(t.count);
  const auto yes = [&](const char* flag) { return m.has(flag) ? "yes" : "no"; };
  std::string cores = fmt::format("{} physical, {} logical, {} usable", m.physical_cores, m.logical_cpus, m.allowed_cpus);
  if (m.quota_cpus > 0) cores += fmt::format(", container quota {:.1f}", m.quota_cpus);
  std::vector<std::pair<std::string, std::string>> rows{
      {"facet", version()},
      {"built with", build_notes()},
      {"libraries", library_versions()},
      {"cpu", m.cpu_model},
      {"instruction set", tiers()},
      {"bf16 / int8", fmt::format("avx512_bf16 {}, avx512_vnni {}, amx_bf16 {}", yes("avx512_bf16"), yes("avx512_vnni"), yes("amx_bf16"))},
      {"cores", cores},
      {"threads", fmt::format("{} ({})", t.count, t.why)},
      {"turns of waiting", waiting_text()},
      {"memory", fmt::format("{} of {} free", human_bytes(static_cast<uint64_t>(m.free_bytes)), human_bytes(static_cast<uint64_t>(m.memory_bytes)))},
      {"system", system_name()},
  };
  for (const auto& fact : gpu_facts()) rows.push_back(fact);
  if (console.json()) {
    nlohmann::ordered_json out;
    for (const auto& [key, value] : rows) out[key] = value;
    console.line("{}", out.dump(2));
    return 0;
  }
  for (const auto& [key, value] : rows) console.line("{:<16} {}", key, value);
  return 0;
}

}  // namespace

Command env_command() {
  return command<Settings>("env", "Show what this build computes with: paste it into an issue", "", run);
}

}  // namespace facet::app
