// A small run of the program to which things happen, and what must hold afterwards.
#pragma once
#include <chrono>
#include <optional>
#include <random>

#include "tests/app/trainers.h"
#include "tests/support/run_files.h"
#include "train/checkpoint.h"

namespace facet::test {

/// Faults of one process, as interposer.cc reads them: {"AT", "7"}, {"DO", "die"}.
using Faults = std::map<std::string, std::string>;

/// Another number every day, the same one all day: which part of a long list the short tests take.
inline unsigned day() {
  return static_cast<unsigned>(std::chrono::duration_cast<std::chrono::hours>(std::chrono::system_clock::now().time_since_epoch()).count() / 24);
}

struct FaultyRun : Trainers {
  /// The calls are those of any model, and there will be thousands of runs.
  static Words smallest(int hidden = 16) {
    Words shape;
    for (const std::string size : {"num_hidden_layers=1", "hidden_size=", "intermediate_size=16", "num_attention_heads=1", "head_dim=8"})
      shape.insert(shape.end(), {"--set", "model." + size + (size.back() == '=' ? std::to_string(hidden) : "")});
    return shape;
  }
  std::string kind;
  Words more;
  std::map<std::string, std::string> want;         ///< what the run leaves when nothing happens to it
  std::map<std::string, std::map<std::string, std::string>> checkpoints;  ///< all it ever writes: "step-2" -> files

  explicit FaultyRun(std::string trainer, int steps = 3, int kept = 1)
      : Trainers(smallest()), kind(std::move(trainer)), more{"--steps", std::to_string(steps), "--keep", std::to_string(kept)} {
    std::filesystem::create_directories(path / "disk");  // beside the files of the test; what happens here is what the faults concern
    REQUIRE(run(words(kind, "disk/all", {"--steps", std::to_string(steps), "--keep", "1000"})) == 0);
    for (const auto& e : std::filesystem::directory_iterator(*this / "disk/all/checkpoints"))
      if (e.is_directory()) checkpoints[e.path().filename().string()] = files_of(e.path().string());
    std::filesystem::remove_all(path / "disk/all");
    REQUIRE(run(words(kind, "disk/run", more)) == 0);
    want = results_of(*this / "disk/run");
    start_over();
  }
  void start_over() const { std::filesystem::remove_all(path / "disk/run"); }
  std::string folder() const { return *this / "disk/run"; }

  /// Starts the run, or goes on with what is there.
  Words command() const {
    return std::filesystem::exists(folder() + "/metrics.jsonl") ? resumed(kind, "disk/run", more) : words(kind, "disk/run", more);
  }
  std::function<void()> broken(const Faults& faults) const {
    return [this, faults] {
      ::setenv("LD_PRELOAD", FACET_FAULTS, 1);
      ::setenv("FAULTS_UNDER", (path / "disk").c_str(), 1);
      for (const auto& [name, value] : faults) ::setenv(("FAULTS_" + name).c_str(), value.c_str(), 1);
    };
  }
  int go(const Faults& faults = {}) const { return run(command(), faults.empty() ? std::function<void()>{} : broken(faults)); }

  /// The step of the last checkpoint that was announced; 0: none.
  int64_t announced() const {
    const std::string latest = content_of(folder() + "/checkpoints/LATEST");
    return latest.empty() ? 0 : std::stoll(latest.substr(latest.find('-') + 1));
  }
  /// What is wrong with a folder of checkpoints; "": the newest one is whole, right, and not older than `at_least`.
  std::string trouble(const std::string& list, int64_t at_least) const {
    std::optional<FoundCheckpoint> found;
    std::string notes;
    try {
      found = newest_checkpoint(list, [&](const std::string& note) { notes += note; });
    } catch (const Error& e) {
      return e.what();
    }
    if (!notes.empty()) return notes;  // a name that is there promises a whole checkpoint
    if ((found ? found->step : 0) < at_least) return fmt::format("step {} was announced, {} is the newest", at_least, found ? found->step : 0);
    if (!found) return {};
    const std::string name = fmt::format("step-{}", found->step);
    return files_of(found->path) == checkpoints.at(name) ? "" : name + " holds other bytes";
  }
  std::string trouble() const { return trouble(folder() + "/checkpoints", announced()); }
  /// The names that only a writer at work may leave.
  std::string leftovers() const {
    std::string names;
    if (!std::filesystem::exists(folder())) return names;  // not even that was made
    for (const auto& e : std::filesystem::recursive_directory_iterator(folder()))
      if (const std::string name = e.path().filename().string(); name.rfind("tmp.", 0) == 0 || name.rfind("trash.", 0) == 0)
        names += std::filesystem::relative(e.path(), folder()).string() + "; ";
    return names;
  }
  /// Goes on to the end without faults: "" when that leaves what the run without any leaves.
  std::string finish() const {
    if (const int code = go(); code != 0) return fmt::format("exit code {}: {}", code, said());
    const std::string left = leftovers();
    return difference(want, results_of(folder())) + (left.empty() ? "" : "left behind: " + left);
  }
};

}  // namespace facet::test
