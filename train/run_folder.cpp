#include "train/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "tensor/error.h"
#include "tensor/io/json.h"

namespace facet {
namespace fs = std::filesystem;
namespace {

// 40 of "step-000040.jsonl"; -1: no such name.
int64_t step_of(const std::string& name) {
  int64_t step = -1;
  if (name.rfind("step-", 0) == 0) std::from_chars(name.data() + 5, name.data() + name.size(), step);
  return step;
}

// What nobody wants checkpoints in: a folder that has a meaning of its own. Others may hold notes or a config file beside the run.
void check_place(const std::string& path) {
  for (const auto& [name, what] : {std::pair{"config.json", "a model"}, {"model.safetensors", "a model"}, {"adapter_config.json", "an adapter"},
                                   {"tokenizer.model", "a tokenizer"}, {"train.jsonl", "data"}, {"train.txt", "data"}})
    if (fs::exists(fs::path(path) / name)) fail(Kind::usage, "{}: this folder holds {} ({}); choose another --out", path, what, name);
}

Json number(double v) { return std::isfinite(v) ? Json(v) : Json(std::isnan(v) ? "nan" : v > 0 ? "inf" : "-inf"); }

}  // namespace

RunFolder::RunFolder(std::string path, bool resume) : path_(std::move(path)), csv_(file("metrics.csv")), events_(file("tb")) {
  if (resume && !fs::exists(file("metrics.jsonl")))
    fail(Kind::usage, "{}: no run to resume in this folder; check --out, or leave --resume out to start one", path_);
  if (!resume) check_place(path_);
  make_folders(path_);
  const std::string lock_path = file("lock");
  do lock_ = open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  while (lock_ < 0 && errno == EINTR);
  if (lock_ < 0) fail(Kind::environment, "{}: cannot write: {}", lock_path, std::strerror(errno));
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    char pid[32] = {};
    if (read(lock_, pid, sizeof pid - 1) < 0) pid[0] = 0;
    close(lock_);
    fail(Kind::environment, "{}: locked by pid {}; another run writes there, choose another --out", path_, pid);
  }
  if (!resume && fs::exists(file("metrics.jsonl"))) {
    close(lock_);
    fail(Kind::usage, "{}: this folder already holds a run; --resume continues it, or choose another --out", path_);
  }
  try {
    if (ftruncate(lock_, 0) != 0) fail(Kind::environment, "{}: cannot write: {}", lock_path, std::strerror(errno));
    GrowingFile(lock_path).append(std::to_string(getpid()));  // all of it, whatever interrupts
  } catch (...) {
    close(lock_);
    throw;
  }
  for (const char* folder : {".", "samples", "completions"}) remove_leftovers(file(folder));
  make_folders(file("samples"));
  make_folders(file("checkpoints"));
  metrics_.emplace(file("metrics.jsonl"));
  console_.emplace(file("console.log"));
}

RunFolder::~RunFolder() {
  if (lock_ >= 0) close(lock_);
}

void RunFolder::write(const std::string& name, const std::string& text) const { write_file_atomically(file(name), text); }

template <class Write>
void RunFolder::log(const std::string& name, Write write) {
  try {
    write();
  } catch (const Error& e) {
    if (e.kind() != Kind::environment) throw;
    if (lost_.insert(name).second) say(fmt::format("warning: {}; lines of steps are missing from here on", e.what()));
  }
}

void RunFolder::metrics(int64_t step, const std::string& kind, const std::map<std::string, double>& values) {
  Json line = {{"step", step}, {"kind", kind}};
  for (const auto& [name, value] : values) line[name] = number(value);
  log("metrics.jsonl", [&] { metrics_->append(line.dump() + "\n"); });
  log("metrics.csv", [&] { csv_.add(step, kind, values); });
  log("tb", [&] { events_.scalars(step, kind + "/", values); });
}

void RunFolder::sample(int64_t step, const std::vector<SampleAnswer>& answers) {
  std::string lines, shown;  // shown: as Markdown, a line for each
  for (const SampleAnswer& a : answers) {
    Json line = {{"prompt", a.prompt}, {"answer", a.answer}};
    if (!a.verdict.empty()) line["verdict"] = a.verdict;
    lines += line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    shown += fmt::format("{} => {}{}  \n", a.prompt, a.answer, a.verdict.empty() ? "" : " (" + a.verdict + ")");
  }
  log("samples", [&] { write(fmt::format("samples/step-{:06}.jsonl", step), lines); });
  log("tb", [&] { events_.text(step, "samples", shown); });
}

void RunFolder::rewind(int64_t step) {
  for (const char* folder : {"samples", "completions"}) {
    std::vector<fs::path> later;
    std::error_code none;
    for (fs::directory_iterator i(file(folder), none), end; !none && i != end; i.increment(none))
      if (step_of(i->path().filename().string()) > step) later.push_back(i->path());
    for (const fs::path& p : later) remove_durably(p.string());
  }
  std::string kept;
  {
    std::ifstream in(file("metrics.jsonl"));
    for (std::string line; std::getline(in, line);) {
      const Json j = Json::parse(line, nullptr, false);
      // A kill may have cut the last line short; what is not a whole line is dropped with the steps that come again.
      if (j.is_object() && j.value("step", int64_t{0}) <= step) kept += line + "\n";
    }
  }
  metrics_.reset();
  write("metrics.jsonl", kept);
  metrics_.emplace(file("metrics.jsonl"));
  log("metrics.csv", [&] { csv_.rewrite(kept); });
  events_.restart(step + 1);
}

void RunFolder::say(const std::string& line, bool transient) {
  try {
    if (!transient) console_->append(line + "\n");
  } catch (const Error&) {  // whoever watches sees the line all the same
  }
  if (watcher) watcher(line, transient);
}

std::string clock_text(double seconds) {
  const auto s = static_cast<int64_t>(std::max(0.0, seconds) + 0.5);
  return s < 3600 ? fmt::format("{}:{:02}", s / 60, s % 60) : fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

std::string short_count(double n) {
  if (n < 1000) return fmt::format("{:.0f}", n);
  const char* unit = "kMGT";
  while (n >= 999'950 && unit[1]) n /= 1000, ++unit;
  return fmt::format("{:.{}f}{}", n / 1000, n < 100'000 ? 1 : 0, *unit);
}

void Rate::add(double work) {
  const auto now = std::chrono::steady_clock::now();
  const double seconds = std::chrono::duration<double>(now - last_).count();
  last_ = now;
  if (seconds <= 0) return;
  // The first step warms up caches and the pool: let the second replace it.
  const double weight = count_ < 2 ? 1.0 : 0.1;
  rate_ += weight * (work / seconds - rate_);
  ++count_;
}

double Rate::per_second() const { return rate_; }

}  // namespace facet
