// Every kernel compiles for sm_80, sm_89 and sm_90a without spilling registers, and for sm_90a stays within its budget. Compiling is the
// build's work (cmake/gpu.cmake); this reads what ptxas said then.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "tests/nvcc/ptxas_report.h"

namespace {
namespace fs = std::filesystem;
const fs::path source = FACET_SOURCE;
const fs::path budget_file = source / "tensor/gpu/budgets.txt", page_file = source / "docs/kernels.md";

std::string read(const fs::path& p) {
  std::ostringstream s;
  s << std::ifstream(p).rdbuf();
  return s.str();
}
std::vector<KernelUse> measured() {
  std::vector<KernelUse> all;
  std::ifstream objects(FACET_KERNEL_OBJECTS);
  for (std::string path; std::getline(objects, path);) {
    if (path.find(".cu.") == std::string::npos) continue;
    const fs::path report = path + ".ptxas";
    INFO("build it: " << path);
    REQUIRE(fs::exists(report));
    for (KernelUse& u : parse_ptxas(fs::path(path).stem().stem(), read(report))) all.push_back(std::move(u));
  }
  return all;
}

const std::string sample = R"(tensor/gpu/x.cu(3): warning #177-D: variable "a" was declared but never referenced
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN5facet3gpu36_GLOBAL__N__95239bce_4_x_cu_4f1a4a8d4rowsIfLi4EEEvPKT_i' for 'sm_90a'
ptxas info    : Function properties for _ZN5facet3gpu36_GLOBAL__N__95239bce_4_x_cu_4f1a4a8d4rowsIfLi4EEEvPKT_i
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 41 registers, used 1 barriers, 4128 bytes smem, 768 bytes cmem[0]
ptxas info    : Compile time = 177.010 ms
)";
std::string with(std::string text, const std::string& from, const std::string& to) {
  return text.replace(text.find(from), from.size(), to);
}
}  // namespace

TEST_CASE("every kernel stays within its budget and none spills", "[nvcc]") {
  const auto uses = measured();
  if (std::getenv("FACET_WRITE")) {
    const Budgets budgets = budgets_of(uses, parse_budgets(read(budget_file)));  // before the file is emptied
    std::ofstream(budget_file) << print_budgets(budgets);
    std::ofstream(page_file) << kernels_page(uses, FACET_NVCC);
  }
  std::set<std::string> archs;
  for (const KernelUse& u : uses) archs.insert(u.arch);
  CHECK(archs == std::set<std::string>{"sm_80", "sm_89", "sm_90a"});
  for (const std::string& complaint : complaints(uses, parse_budgets(read(budget_file)))) FAIL_CHECK(complaint);
}

TEST_CASE("the page of kernels lists those that have a budget", "[nvcc]") {
  const std::string page = read(page_file);
  std::set<std::string> rows;
  std::istringstream in(page);
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("| ", 0) == 0 && line.find('`') != std::string::npos) rows.insert(line.substr(0, line.rfind('`')));
  }
  std::set<std::string> expected;
  for (const auto& [key, b] : parse_budgets(read(budget_file))) expected.insert("| " + key.first + " | `" + key.second);
  INFO("FACET_WRITE=1 build/tests/test_nvcc writes docs/kernels.md");
  CHECK(rows == expected);
}

TEST_CASE("a report of ptxas is read, and what exceeds a budget is told", "[nvcc]") {
  const auto uses = parse_ptxas("x", sample);
  REQUIRE(uses.size() == 1);
  CHECK(uses[0].function == "rows<float, 4>");
  CHECK(uses[0].arch == "sm_90a");
  CHECK(uses[0].registers == 41);
  CHECK(uses[0].shared == 4128);
  const Budgets budgets = budgets_of(uses, {});
  CHECK(budgets.at({"x", "rows<float, 4>"}).registers == 48);
  CHECK(parse_budgets(print_budgets(budgets)).at({"x", "rows<float, 4>"}).shared == 4128);
  CHECK(complaints(uses, budgets).empty());

  const auto one = [&](const std::string& text, const Budgets& b, const std::string& word) {
    const auto told = complaints(parse_ptxas("x", text), b);
    REQUIRE(told.size() == 1);
    CHECK(told[0].find(word) != std::string::npos);
  };
  one(sample, {}, "has no line");
  one(with(sample, "Used 41", "Used 49"), budgets, "49 registers, 48");
  one(with(sample, "4128 bytes smem", "8256 bytes smem"), budgets, "8256 bytes of shared");
  one(with(sample, "0 bytes spill stores", "8 bytes spill stores"), budgets, "spilled");
  one(with(sample, "0 bytes stack", "32 bytes stack"), budgets, "stack");
  one("", budgets, "no kernel any more");
  one(with(with(sample, "sm_90a", "sm_80"), "0 bytes spill loads", "40 bytes spill loads"), {}, "spilled");  // no budgets, but no spills either
  const std::string helper = "ptxas info    : Function properties for helper\n    24 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n";
  one(with(sample, "ptxas info    : Used", helper + "ptxas info    : Used"), budgets, "helper");
  CHECK_THROWS(parse_budgets("x many 0 0 kernel\n"));
}
