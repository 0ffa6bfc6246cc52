// What the program runs on, read from the operating system.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace facet::app {

struct Machine {
  std::string cpu_model;
  int logical_cpus = 1;    ///< hardware threads of the machine
  int physical_cores = 1;
  int allowed_cpus = 1;    ///< those this process may run on (affinity)
  double quota_cpus = 0;   ///< container limit in CPUs; 0 = none
  int64_t memory_bytes = 0, free_bytes = 0;  ///< the smaller of machine and container limit; what can still be taken
  double load = 0;         ///< running processes, averaged over a minute
  std::vector<std::string> cpu_flags;
  bool has(const std::string& cpu_flag) const;
};
const Machine& machine();

struct Threads {
  int count;
  std::string why;
};
/// "auto" or a number. auto takes one thread per CPU this process may use; when others keep the machine busy it measures
/// (some 20 ms) whether fewer threads are faster, since a team waits for its slowest member.
Threads choose_threads(const std::string& asked);

}  // namespace facet::app
