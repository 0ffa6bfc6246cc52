// One prepared run that tells whether everything is right on this machine's GPU, and how fast it is.
#include <chrono>
#include <ctime>
#include <functional>

#include <nlohmann/json.hpp>

#include "app/command.h"
#include "app/conformance/conformance.h"
#include "app/machine.h"
#include "app/version.h"
#include "tensor/error.h"
#include "tensor/gpu/cudnn_graph.h"
#include "tensor/gpu/lt.h"
#include "tensor/gpu/runtime.h"
#include "tensor/io/durable.h"

namespace facet::app {
namespace {

struct Settings : Common {
  std::string only, size = "auto", record;
  ProbeSize probe_size;
  bool checks_only = false;
  void declare(Options& o) {
    o.add("only", &only, "one part: ops, model, train or decode; default: all").choices({"", "ops", "model", "train", "decode"});
    o.add("size", &size, "of what is run; tiny is for an emulated GPU, auto looks").choices({"auto", "tiny", "full"});
    o.add("checks-only", &checks_only, "leave out how fast operations, training and decoding are");
    o.add("probe-n", &probe_size.product, "rows, columns and depth of the product that stands for the device's limit; 0: by --size").range(0, 1 << 16);
    o.add("probe-mb", &probe_size.copy_mb, "size of the copy that stands for it; 0: by --size").range(0, 1 << 20);
    o.add("record", &record, "file for the record, as bench/records/ keeps them").metavar("FILE");
    probe_size = {0, 0};
  }
};

std::string utc_now() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  return text;
}

nlohmann::ordered_json record_of(const Settings& s, const Conformance& c, const std::string& date, double seconds) {
  const gpu::DeviceInfo& d = gpu::device();
  nlohmann::ordered_json j{{"date", date},
                           {"facet", version()},
                           {"built", build_notes()},
                           {"gpu",
                            {{"name", d.name},
                             {"compute_capability", fmt::format("{}.{}", d.major, d.minor)},
                             {"processors", d.processors},
                             {"memory_bytes", d.total_bytes},
                             {"driver", d.driver},
                             {"runtime", d.runtime},
                             {"cublaslt", gpu::lt_version()},
                             {"cudnn", gpu::cudnn_version()},
                             {"emulated", d.emulated}}},
                           {"cpu", machine().cpu_model},
                           {"part", s.only.empty() ? "all" : s.only},
                           {"size", c.tiny ? "tiny" : "full"},
                           {"seed", s.seed},
                           {"seconds", seconds},
                           {"passed", c.count(Verdict::failed) == 0},
                           {"failed", c.count(Verdict::failed)}};
  for (const Finding& f : c.findings()) {
    nlohmann::ordered_json row{{"part", f.section}, {"name", f.name}, {"verdict", name_of(f.verdict)}, {"detail", f.detail}, {"seconds", f.seconds}};
    for (const auto& [name, value] : f.figures) row["figures"][name] = value;
    j["findings"].push_back(std::move(row));
  }
  return j;
}

int run(Settings& s, Options&, Console& console) {
  use_threads(s.threads, console);
  const gpu::DeviceInfo& d = gpu::device();
  Conformance c(console, s.size == "tiny" || (s.size == "auto" && d.emulated), static_cast<uint64_t>(s.seed));
  ProbeSize probed = c.tiny ? ProbeSize{64, 1} : ProbeSize{};
  if (s.probe_size.product > 0) probed.product = s.probe_size.product;
  if (s.probe_size.copy_mb > 0) probed.copy_mb = s.probe_size.copy_mb;

  const std::string date = utc_now();
  const auto start = std::chrono::steady_clock::now();
  console.note("{}, compute capability {}.{}, driver {}, CUDA {}", d.name, d.major, d.minor, d.driver, d.runtime);
  const auto wanted = [&](const char* part) { return s.only.empty() || s.only == part; };
  std::optional<Probe> limit;
  const auto limits = [&] {
    if (!limit) limit = probe(c, probed);
    return *limit;
  };
  const auto seconds_so_far = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  const auto record = [&] { return record_of(s, c, date, seconds_so_far()).dump(1); };
  bool lost = false;
  const auto part = [&](const char* name, const std::function<void()>& f) {
    if (lost || !wanted(name)) return;
    try {
      f();
    } catch (const std::exception& e) {
      lost = device_is_lost();  // nothing that follows would mean anything; any other failure ends a part alone
      c.add({name, lost ? "the device" : "the rest of it", Verdict::failed, e.what(), {}, 0});
    }
    if (!s.record.empty()) write_file_atomically(s.record, record() + "\n");  // whatever happens to the rest of the run
  };
  part("ops", [&] {
    conform_ops(c);
    if (!s.checks_only) time_moves(c, limits());
  });
  part("model", [&] { conform_model(c); });
  part("train", [&] {
    conform_train(c);
    if (!s.checks_only) time_training(c, limits());
  });
  part("decode", [&] {
    conform_decode(c);
    if (!s.checks_only) time_decoding(c, limits());
  });
  const double seconds = seconds_so_far();
  if (console.json()) console.line("{}", record());
  const int64_t failed = c.count(Verdict::failed);
  const std::string totals = fmt::format("{} passed, {} failed, {} measured in {:.0f} s", c.count(Verdict::passed), failed,
                                         c.count(Verdict::measured), seconds);
  if (failed > 0) fail(Kind::check, "conformance: {}", totals);
  if (!console.json()) console.line("{}", totals);
  return 0;
}

}  // namespace

Command conformance_command() {
  return command<Settings>("conformance", "Check everything on this machine's GPU against the CPU, and measure it",
                           "Operations, a small model against reference numbers, training, decoding; then how fast they are, beside a product and a\n"
                           "copy timed in the same run. Needs no files. Exit code 1 when something differs, 5 without a GPU.\n"
                           "  facet conformance --record bench/records/h200.json\n  facet conformance --only ops",
                           run);
}

}  // namespace facet::app
