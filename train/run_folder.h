// A run's folder: what was asked (config.resolved.yaml, command.txt, env.json), what happened (metrics.jsonl, and from it metrics.csv and
// tb/; console.log, samples/), what is left (checkpoints/, final/). One writer at a time, held by a lock.
#pragma once
#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tensor/io/durable.h"
#include "train/event_file.h"
#include "train/metrics_csv.h"

namespace facet {

/// What a model answers while it learns.
struct SampleAnswer {
  std::string prompt, answer;
  std::string verdict = {};  ///< a verifier's word; empty: nobody judged
};

class RunFolder {
 public:
  /// Creates the folder and locks it. A folder that already holds a run is refused with Error(Kind::usage) unless `resume`, one
  /// that holds none with it, and one that is a model's or data; another process that writes there with Error(Kind::environment)
  /// naming its id.
  RunFolder(std::string path, bool resume);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  /// Writes a small text file by temporary name and rename.
  void write(const std::string& name, const std::string& text) const;

  /// One line of metrics.jsonl: {"step": 3, "kind": "train", ...}, a row of metrics.csv, and an event for TensorBoard. A kill loses nothing; a
  /// full disk loses lines, which is said once for each of them.
  void metrics(int64_t step, const std::string& kind, const std::map<std::string, double>& values);
  /// The same prompts answered over time: samples/step-000040.jsonl, a line {"prompt", "answer", "verdict"} each, and for TensorBoard.
  /// As with metrics, a full disk does not end the run.
  void sample(int64_t step, const std::vector<SampleAnswer>&);
  /// What the metrics say so far outlasts a loss of power: to be called before a checkpoint, which must not be newer than they are.
  void sync_metrics() { metrics_->sync(); }
  /// Drops metrics, samples and completions of steps after `step`: they will be computed again.
  void rewind(int64_t step);

  /// A line for whoever watches, and for console.log. A `transient` line only says how far things are: a watcher may redraw it in
  /// place, the log does without it.
  void say(const std::string& line, bool transient = false);
  std::function<void(const std::string& line, bool transient)> watcher;

 private:
  /// Calls write() for one of the logs, and says so once if that is not possible: the checkpoint decides whether a full disk ends the run.
  template <class Write>
  void log(const std::string& name, Write write);

  std::string path_;
  int lock_ = -1;
  std::optional<GrowingFile> metrics_, console_;
  MetricsCsv csv_;
  EventFile events_;
  std::set<std::string> lost_;  ///< logs that lack something
};

/// "1:02:03" or "4:05".
std::string clock_text(double seconds);
/// "18.4k", "212M".
std::string short_count(double n);

/// Steps per second over the recent past, and the time that is left.
class Rate {
 public:
  void add(double work);
  double per_second() const;  ///< work per second, recent steps weigh more
 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
  double rate_ = 0;
  int count_ = 0;
};

}  // namespace facet
