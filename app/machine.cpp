#include "app/machine.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <limits>
#include <set>
#include <sstream>

#include "tensor/error.h"
#include "tensor/parallel.h"

namespace facet::app {
namespace {

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

int64_t number_or(const std::string& text, int64_t otherwise) {
  return text.empty() || text.find_first_not_of("0123456789") != std::string::npos || text.size() > 18 ? otherwise : std::stoll(text);
}

void read_cpuinfo(Machine& m) {
  std::ifstream file("/proc/cpuinfo");
  std::set<std::string> cores;
  std::string line, socket;
  int processors = 0;
  while (std::getline(file, line)) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::string key = line.substr(0, line.find_last_not_of(" \t", colon - 1) + 1);
    const std::string value = colon + 2 <= line.size() ? line.substr(colon + 2) : "";
    if (key == "processor") ++processors;
    if (key == "model name" && m.cpu_model.empty()) m.cpu_model = value;
    if (key == "physical id") socket = value;
    if (key == "core id") cores.insert(socket + "/" + value);
    if ((key == "flags" || key == "Features") && m.cpu_flags.empty()) {
      std::istringstream words(value);
      for (std::string w; words >> w;) m.cpu_flags.push_back(w);
    }
  }
  m.logical_cpus = std::max(1, processors);
  m.physical_cores = cores.empty() ? m.logical_cpus : static_cast<int>(cores.size());
  if (m.cpu_model.empty()) m.cpu_model = "unknown";
}

void read_memory(Machine& m) {
  std::ifstream file("/proc/meminfo");
  std::string key;
  int64_t kib;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    if (!(words >> key >> kib)) continue;
    if (key == "MemTotal:") m.memory_bytes = kib * 1024;
    if (key == "MemAvailable:") m.free_bytes = kib * 1024;
  }
  const int64_t limit = number_or(first_line("/sys/fs/cgroup/memory.max"), std::numeric_limits<int64_t>::max());
  if (limit < m.memory_bytes) {
    m.memory_bytes = limit;
    m.free_bytes = std::min(m.free_bytes, std::max<int64_t>(0, limit - number_or(first_line("/sys/fs/cgroup/memory.current"), 0)));
  }
}

// Seconds for a fixed amount of arithmetic on this many threads, the best of three.
double seconds_with(int count) {
  set_threads(count);
  double best = 1e9;
  for (int i = 0; i < 3; ++i) {
    const auto start = std::chrono::steady_clock::now();
    parallel_for(64, 1, 1 << 14, [](int64_t a, int64_t b) {
      for (int64_t k = a; k < b; ++k) {
        double x = 1.0 + static_cast<double>(k);
        for (int j = 0; j < 3000; ++j) x = x * 0.999 + 0.001;  // a chain no compiler removes
        [[maybe_unused]] volatile double keep = x;
      }
    });
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

}  // namespace

bool Machine::has(const std::string& flag) const {
  return std::find(cpu_flags.begin(), cpu_flags.end(), flag) != cpu_flags.end();
}

const Machine& machine() {
  static const Machine m = [] {
    Machine m;
    read_cpuinfo(m);
    read_memory(m);
    cpu_set_t set;
    m.allowed_cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : m.logical_cpus;
    std::istringstream quota(first_line("/sys/fs/cgroup/cpu.max"));
    double used = 0, period = 0;
    if (quota >> used >> period && period > 0) m.quota_cpus = used / period;
    std::istringstream(first_line("/proc/loadavg")) >> m.load;
    return m;
  }();
  return m;
}

Threads choose_threads(const std::string& asked) {
  if (asked != "auto") return {static_cast<int>(number_or(asked, 1)), "as asked"};
  const Machine& m = machine();
  int count = m.allowed_cpus;
  std::string why = fmt::format("one per usable CPU ({} of {})", m.allowed_cpus, m.logical_cpus);
  if (m.quota_cpus > 0 && m.quota_cpus < count) {
    count = std::max(1, static_cast<int>(std::floor(m.quota_cpus)));
    why = fmt::format("the container may use {:.1f} CPUs", m.quota_cpus);
  }
  if (count == 1 || m.load < 0.5 * count) return {count, why};
  int best = count;
  double best_seconds = seconds_with(count);
  for (int n = count / 2; n >= 1; n /= 2)
    if (const double s = seconds_with(n); s < 0.9 * best_seconds) best = n, best_seconds = s;
  why += best == count ? fmt::format("; the machine is busy (load {:.1f}), measured: still the fastest", m.load)
                       : fmt::format("; the machine is busy (load {:.1f}), measured: {} is faster", m.load, best);
  return {best, why};
}

}  // namespace facet::app
