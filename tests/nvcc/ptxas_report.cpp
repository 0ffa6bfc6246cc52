#include "tests/nvcc/ptxas_report.h"

#include <cxxabi.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <regex>
#include <set>
#include <sstream>
#include <stdexcept>

namespace {
constexpr const char* budgeted_arch = "sm_90a";
constexpr int saved_around_calls = 32;  // bytes; ptxas for older GPUs saves a few registers around its own calls (division)

std::string without(std::string s, const std::string& part) {
  for (size_t at; (at = s.find(part)) != std::string::npos;) s.erase(at, part.size());
  return s;
}
std::string readable(const std::string& mangled) {
  const std::unique_ptr<char, void (*)(void*)> text(abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, nullptr), std::free);
  if (!text) return mangled;
  std::string s = text.get();
  for (const char* part : {"(anonymous namespace)::", "facet::gpu::", "facet::"}) s = without(s, part);
  int depth = 0;  // parameters begin at the first parenthesis that no template argument holds
  for (size_t i = 0; i < s.size(); ++i) {
    depth += s[i] == '<' ? 1 : s[i] == '>' ? -1 : 0;
    if (s[i] == '(' && depth == 0) {
      s.resize(i);
      break;
    }
  }
  return s.rfind("void ", 0) == 0 ? s.substr(5) : s;
}
int number(const std::string& line, const char* pattern) {
  std::smatch m;
  return std::regex_search(line, m, std::regex(pattern)) ? std::stoi(m[1]) : 0;
}
}  // namespace

std::vector<KernelUse> parse_ptxas(const std::string& file, const std::string& text) {
  static const std::regex entry("Compiling entry function '([^']+)' for '([^']+)'"), properties("Function properties for (\\S+)");
  std::vector<KernelUse> all;
  std::string arch, kernel;
  std::istringstream in(text);
  size_t of_kernel = 0;
  for (std::string line; std::getline(in, line);) {
    std::smatch m;
    if (std::regex_search(line, m, entry)) {
      kernel = m[1];
      arch = m[2];
    } else if (std::regex_search(line, m, properties)) {
      KernelUse use{file, arch, readable(m[1]), m[1] == kernel};
      if (use.kernel) of_kernel = all.size();
      all.push_back(use);
    } else if (line.find("bytes spill stores") != std::string::npos) {
      if (all.empty()) throw std::runtime_error(fmt::format("{}: '{}' belongs to no function", file, line));
      all.back().stack = number(line, "(\\d+) bytes stack frame");
      all.back().spill = number(line, "(\\d+) bytes spill stores") + number(line, "(\\d+) bytes spill loads");
    } else if (line.find(" registers") != std::string::npos && line.find("Used ") != std::string::npos) {
      if (of_kernel >= all.size()) throw std::runtime_error(fmt::format("{}: '{}' belongs to no kernel", file, line));
      all[of_kernel].registers = number(line, "Used (\\d+) registers");
      all[of_kernel].shared = number(line, "(\\d+) bytes smem");
    }
  }
  return all;
}

Budgets parse_budgets(const std::string& text) {
  Budgets all;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream fields(line);
    std::string file, function;
    Budget b;
    if (!(fields >> file >> b.registers >> b.shared >> b.stack >> std::ws) || !std::getline(fields, function)) {
      throw std::runtime_error(fmt::format("budgets: '{}' is not FILE REGISTERS SHARED STACK KERNEL", line));
    }
    all[{file, function}] = b;
  }
  return all;
}

std::string print_budgets(const Budgets& all) {
  std::string s =
      "# What every kernel may use on sm_90a: FILE, registers of a thread, bytes of static shared memory of a block, bytes of a thread's\n"
      "# stack, KERNEL. Spills are never allowed. tests/nvcc checks it; FACET_WRITE=1 build/tests/test_nvcc writes it anew (look at the\n"
      "# difference: registers that grew are threads that no longer fit).\n";
  for (const auto& [key, b] : all) s += fmt::format("{:<24} {:>3} {:>6} {:>3}  {}\n", key.first, b.registers, b.shared, b.stack, key.second);
  return s;
}

Budgets budgets_of(const std::vector<KernelUse>& uses, const Budgets& before) {
  Budgets all;
  for (const KernelUse& u : uses) {
    if (u.arch != budgeted_arch || !u.kernel) continue;
    const std::pair key(u.file, u.function);
    Budget& b = all[key];  // overloads share a line: the larger counts
    b.registers = std::max(b.registers, std::min(255, (u.registers + 7) / 8 * 8));
    b.shared = std::max(b.shared, u.shared);
    if (const auto granted = before.find(key); granted != before.end()) b.stack = granted->second.stack;
  }
  return all;
}

std::vector<std::string> complaints(const std::vector<KernelUse>& uses, const Budgets& budgets) {
  std::vector<std::string> all;
  std::set<std::pair<std::string, std::string>> seen;
  for (const KernelUse& u : uses) {
    const auto say = [&](const std::string& what) { all.push_back(fmt::format("{}.cu, {} ({}): {}", u.file, u.function, u.arch, what)); };
    if (u.spill > (u.arch == budgeted_arch ? 0 : saved_around_calls)) {
      say(fmt::format("{} bytes of registers are spilled to memory; a smaller tile, or fewer values alive", u.spill));
    }
    if (u.arch != budgeted_arch) continue;
    const std::pair key(u.file, u.function);
    const auto found = budgets.find(key);
    if (u.stack > (found != budgets.end() ? found->second.stack : 0)) {
      say(fmt::format("{} bytes of stack: an array is indexed by what the compiler does not know", u.stack));
    }
    if (!u.kernel) continue;
    seen.insert(key);
    if (found == budgets.end()) {
      say("has no line in tensor/gpu/budgets.txt; FACET_WRITE=1 build/tests/test_nvcc adds it");
      continue;
    }
    const Budget& b = found->second;
    if (u.registers > b.registers) say(fmt::format("{} registers, {} are granted", u.registers, b.registers));
    if (u.shared > b.shared) say(fmt::format("{} bytes of shared memory, {} are granted", u.shared, b.shared));
  }
  for (const auto& [key, b] : budgets) {
    if (!seen.count(key)) all.push_back(fmt::format("{}.cu, {}: has a budget, but is no kernel any more", key.first, key.second));
  }
  return all;
}

std::string kernels_page(const std::vector<KernelUse>& uses, const std::string& nvcc_version) {
  std::string s = fmt::format(
      "# Kernels\n\n"
      "What ptxas of CUDA {} makes of every kernel for Hopper (sm_90a). No kernel spills registers, for sm_80 and sm_89 neither. Shared\n"
      "memory is the static part of a block; what is asked for at launch comes on top. Threads: how many an SM holds as far as registers\n"
      "go, of 2048. Written by `FACET_WRITE=1 build/tests/test_nvcc`; the limits are in `tensor/gpu/budgets.txt`.\n\n"
      "| file | kernel | registers | shared bytes | threads |\n|---|---|---|---|---|\n",
      nvcc_version);
  std::set<std::tuple<std::string, std::string, int, int>> rows;
  for (const KernelUse& u : uses) {
    if (u.arch == budgeted_arch && u.kernel) rows.insert({u.file, u.function, u.registers, u.shared});
  }
  for (const auto& [file, function, registers, shared] : rows) {
    const int warps = std::min(64, 65536 / (32 * std::max(8, (registers + 7) / 8 * 8)));
    s += fmt::format("| {} | `{}` | {} | {} | {} |\n", file, function, registers, shared, warps / 4 * 4 * 32);  // four schedulers alike
  }
  return s;
}
