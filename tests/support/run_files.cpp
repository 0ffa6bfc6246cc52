#include "tests/support/run_files.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

namespace facet::test {
namespace fs = std::filesystem;

std::string metrics_of(const std::string& folder) {
  std::string text;
  std::ifstream in(folder + "/metrics.jsonl");
  for (std::string line; std::getline(in, line);) {
    auto j = nlohmann::json::parse(line);
    if (j.value("kind", "") == "end") continue;  // where the time went after the last step: nothing but clocks, and not there if that was cut short
    for (auto i = j.begin(); i != j.end();) {
      const bool measured = i.key().ends_with("_seconds") || i.key().ends_with("_per_s") || i.key() == "peak_bytes" || i.key() == "sampling_share" || i.key() == "speed_of_light";
      i = measured ? j.erase(i) : std::next(i);
    }
    text += j.dump() + "\n";
  }
  return text;
}

std::map<std::string, std::string> results_of(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& e : fs::recursive_directory_iterator(folder)) {
    const std::string name = fs::relative(e.path(), folder).string();
    const bool of_the_machine = name == "lock" || name == "console.log" || name == "command.txt" || name == "env.json" || name == "config.resolved.yaml";
    const bool of_the_metrics = name == "metrics.csv" || name.starts_with("tb/");  // with clocks in them; tests/train/run_folder_test.cpp
    if (!e.is_regular_file() || of_the_machine || of_the_metrics) continue;
    std::ifstream in(e.path(), std::ios::binary);
    files[name] = name == "metrics.jsonl" ? metrics_of(folder) : std::string(std::istreambuf_iterator<char>(in), {});
  }
  return files;
}

std::string difference(const std::map<std::string, std::string>& a, const std::map<std::string, std::string>& b) {
  std::string names;
  for (const auto& [name, bytes] : a)
    if (const auto other = b.find(name); other == b.end()) names += name + " is missing; ";
    else if (other->second != bytes) names += name + " differs; ";
  for (const auto& [name, bytes] : b)
    if (!a.count(name)) names += name + " is new; ";
  return names;
}

}  // namespace facet::test
