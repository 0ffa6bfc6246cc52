// Every operation of a training step against what this machine can do at most: products and attention as a share of a loop of
// fused multiply-adds, what only moves numbers as a share of a copy of as many bytes. On a GPU: of a large product and a large copy.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <optional>

#include "app/command.h"
#include "app/limits.h"
#include "bench/support/op_cases.h"
#include "tensor/gpu/runtime.h"

namespace facet::app {
namespace {

struct Settings : Common {
  std::string only;
  double seconds = 0.15;
  void declare(Options& o) {
    o.add("only", &only, "part of a name: \"270m\", \"attention\", \"demo linear q dw\"").positional();
    o.add("seconds", &seconds, "about how long each operation is timed").range(0.001, 60);
  }
};

struct Figures {
  double ms, rate, limit;
};

// Operations of the GPU are timed in series, one after the other, against limits measured once.
class DeviceLimits {
 public:
  DeviceLimits(DType dtype, double seconds) : seconds_(seconds) {
    const bool tiny = gpu::device().emulated;
    flops_ = product_rate(tiny ? 64 : 8192, dtype, seconds) / 1e9;
    bytes_ = copy_rate(int64_t{1} << (tiny ? 16 : 31), seconds).best() / 1e9;
  }
  Figures measure(const bench::OpCase& c) const {
    const double t = bench::device_seconds(c.run, seconds_);
    return {1e3 * t, (c.flops > 0 ? c.flops : c.bytes) / t / 1e9, c.flops > 0 ? flops_ : bytes_};
  }

 private:
  double seconds_, flops_ = 0, bytes_ = 0;  // flops_, bytes_: of the GPU's best nanosecond
};

Figures measure(const bench::OpCase& c, double seconds) {
  const bool computes = c.flops > 0;
  const double work = computes ? c.flops : c.bytes;
  bench::Work limit = bench::multiply_adds;
  if (!computes) {
    const int64_t n = std::max<int64_t>(1, static_cast<int64_t>(c.bytes / 8));  // a copy reads and writes four bytes an element
    limit = [from = Tensor::zeros({n}), to = Tensor::zeros({n})] { return bench::copy_bytes(from, to); };
  }
  c.run();
  const double begin = bench::now();
  c.run();
  const double once = std::max(1e-7, bench::now() - begin), slice = std::min(0.002, seconds / 8);
  const int slices = std::clamp(static_cast<int>(seconds / (std::max(once, slice) + slice)), 3, 100);
  const auto rate = bench::race({[&] { return c.run(), work; }, limit}, slice, slices);
  return {work / rate[0] / 1e6, rate[0], rate[1]};
}

int run(Settings& s, Options&, Console& console) {
  use_threads(s.threads, console);
  if (s.dtype == "f64") fail(Kind::usage, "--dtype f64: training computes in f32; f32 and bf16 can be timed");
  const DType dtype = s.dtype == "bf16" ? DType::bf16 : DType::f32;
  const Device device = timed_device(s);
  const auto cases = bench::op_cases(dtype, device);
  std::optional<DeviceLimits> limits;
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  bool found = false;
  for (const auto& [name, make] : cases) {
    if (name.find(s.only) == std::string::npos) continue;
    if (!found) {
      console.note("{}; share of {} in this run, best of {}", where_timed(device),
                   device == Device::gpu ? "a large product or a large copy" : "multiply-adds or of a copy",
                   device == Device::gpu ? "three series" : "slices that take turns");
      if (device == Device::gpu) limits.emplace(dtype, s.seconds);
    }
    found = true;
    const bench::OpCase c = make();
    const Figures x = limits ? limits->measure(c) : measure(c, s.seconds);
    const char* unit = c.flops > 0 ? "GFLOP/s" : "GB/s";
    if (console.json())
      rows.push_back({{"model", c.model}, {"op", c.op}, {"pass", c.pass}, {"shape", c.shape}, {"ms", x.ms}, {"rate", x.rate}, {"unit", unit},
                      {"limit", x.limit}, {"share", x.rate / x.limit}});
    else
      console.line("{:<5} {:<21}{:<17}{:<24}{:10.4f} ms {:8.1f} {:<8}{:4.0f}% of {:.1f}", c.model, c.op, c.pass, c.shape, x.ms, x.rate, unit,
                   100 * x.rate / x.limit, x.limit);
  }
  if (!found) fail(Kind::usage, "--only {}: no operation has such a name; without it all are listed", s.only);
  if (console.json()) console.line("{}", rows.dump(2));
  return 0;
}

}  // namespace

Command bench_op_command() {
  return command<Settings>("bench op", "Time every operation of a training step against the machine's limits",
                           "At the demo's and Gemma 3 270M's sizes, without the tape.\n  facet bench op --threads 1 --only 270m", run);
}

}  // namespace facet::app
