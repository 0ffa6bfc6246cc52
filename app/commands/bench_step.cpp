// Full training steps of a model with random weights on random tokens: how fast, how close to what the processor can multiply, how
// much memory, and where the time goes.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <memory>

#include "app/command.h"
#include "app/limits.h"
#include "app/trace_file.h"
#include "app/train_run.h"
#include "nn/body_graphs.h"
#include "nn/tap.h"
#include "optim/adamw.h"
#include "tensor/gpu/pool.h"
#include "tensor/gpu/runtime.h"
#include "tensor/io/durable.h"
#include "tensor/io/text.h"
#include "tensor/parallel.h"
#include "tensor/profile.h"
#include "tensor/size_classes.h"
#include "tensor/trace.h"
#include "train/sft.h"

namespace facet::app {
namespace {

constexpr const char* table_only = "-";  // --profile without a file

struct Settings : Common {
  std::string size = "tiny", recompute = "none";
  std::optional<int64_t> max_len, batch;
  int64_t steps = 20;
  std::string profile;
  bool memory = false;
  std::map<std::string, std::string> overrides;
  void declare(Options& o) {
    o.add("preset", &size, "size of the model").choices(preset_names());
    o.add("max-len", &max_len, "tokens in a row; default: 24 for tiny, 512 else").range(1, 1 << 20);
    o.add("batch", &batch, "rows in a step; default: 128 for tiny, 1 else").range(1, 1 << 20);
    o.add("steps", &steps, "steps that are timed, after two that are not").range(1, 1e6);
    o.add("profile", &profile, "the time of a step by kernel, and what is spent outside kernels; with a file, also as a trace of those steps for chrome://tracing").metavar("[FILE]").bare(table_only);
    o.add("mem-report", &memory, "what every layer keeps for backward, beside one residual [tokens, width]");
    o.add("recompute", &recompute, "what backward computes again to save memory").choices(recompute_names());
    o.pass_through("model", overrides);
  }
};

struct MemoryReport {
  size_t before = 0, residual = 0, peak = 0;  ///< bytes; residual: one [tokens, width], as the pool rounds it
  std::vector<int64_t> layers;                ///< what each keeps for backward
};

// Bytes in use after every block of a forward pass. The first block's own share is told by the embedding before it.
MemoryReport memory_report(Gemma& model, const Batch& batch) {
  MemoryReport r;
  const auto live = [&] { return pool_stats(model.device()).live_bytes; };
  r.before = live();
  std::vector<size_t> after;
  const Taps taps([&](const std::string& path, const Tensor& value) {
    if (path == "embed") r.residual = size_classes::rounded(static_cast<size_t>(value.numel() * size_of(value.dtype())));
    if (path == "embed" || (path.starts_with("layers.") && path.ends_with(".out"))) after.push_back(live());
  });
  const Tensor h = model.hidden({batch.ids, batch.positions, {}});
  for (size_t i = 1; i < after.size(); ++i) r.layers.push_back(static_cast<int64_t>(after[i]) - static_cast<int64_t>(after[i - 1]));
  return r;
}

int run(Settings& s, Options&, Console& console) {
  use_threads(s.threads, console);
  const bool tiny = s.size == "tiny";
  const int64_t length = s.max_len.value_or(tiny ? 24 : 512), rows = s.batch.value_or(tiny ? 128 : 1), tokens = rows * length;
  GemmaConfig config = preset(s.size);
  for (const auto& [key, value] : s.overrides) set_field(config, key, value);
  Gemma model(config, weight_dtype(s.dtype));
  model.init(key(static_cast<uint64_t>(s.seed)));
  const Device device = timed_device(s);
  const bool gpu = device == Device::gpu;
  const bool profile = !s.profile.empty(), table = profile && !gpu;
  if (gpu && s.profile == table_only)
    fail(Kind::usage, "--profile: times kernels on the CPU; with --device cuda give it a file, for a trace of operations, or see NVIDIA's nsys");
  model.to(device);
  model.recompute = recompute_of(s.recompute);
  AdamW optimizer(parameter_groups(model, 0.01), {});
  if (gpu) model.graphs = std::make_shared<BodyGraphs>(model);
  optimizer.keep_gradients(gpu);  // captured passes add to them by address
  const Batch batch = random_batch(rows, length, config.vocab, static_cast<uint64_t>(s.seed));

  double loss = 0;
  const auto step = [&] {
    loss = batch_loss(model, batch, 1.0 / static_cast<double>(batch.supervised));
    const Phase phase("optimizer");
    const Clip clip = optimizer.clip(1.0);
    optimizer.step(1e-4, clip.scale);
  };
  for (int i = 0; i < (gpu ? 4 : 2); ++i) step();

  // The limit is measured between the steps: on a shared machine it moves. That of a GPU, a large bf16 product, is measured once.
  const auto device_limit = [] { return product_rate(gpu::device().emulated ? 64 : 8192, DType::bf16, 0.2) / 1e9; };
  const size_t system_before = pool_stats(device).sys_allocs;
  std::vector<double> seconds, limit;
  for (int64_t i = 0; i < s.steps; ++i) {
    if (!gpu && i % std::max<int64_t>(1, s.steps / 8) == 0) limit.push_back(bench::race({bench::multiply_adds}, 0.002, 4)[0]);
    console.progress("steps", i, s.steps);
    const double begin = bench::now();
    step();
    seconds.push_back(bench::now() - begin);
  }
  console.progress_end();
  const size_t system = pool_stats(device).sys_allocs - system_before;
  const PoolStats memory = pool_stats(device);
  if (gpu) limit.push_back(device_limit());

  std::vector<KernelTime> kernels;
  double profiled = 0;
  if (table) {
    profile_start();
    for (int64_t i = 0; i < s.steps; ++i) step();
    profiled = profile_seconds();
    for (const KernelTime& k : profile_stop()) kernels.push_back(k);
    std::sort(kernels.begin(), kernels.end(), [](const KernelTime& a, const KernelTime& b) { return a.seconds > b.seconds; });
  }
  if (profile && s.profile != table_only) {
    const TraceFile trace(s.profile, device, console);
    for (int64_t i = 0; i < s.steps; ++i) {
      const TraceStep traced(i + 1);
      step();
    }
  }
  std::optional<MemoryReport> kept;
  if (s.memory) {
    kept = memory_report(model, batch);
    gpu ? gpu::pool_reset_peak() : pool_reset_peak();
    step();
    kept->peak = pool_stats(device).peak_bytes;
  }
  double inside = 0;
  for (const KernelTime& k : kernels) inside += k.seconds;

  const double typical = bench::median(seconds), best = *std::min_element(seconds.begin(), seconds.end()), n = static_cast<double>(tokens);
  const double flops = model.step_flops(n, (static_cast<double>(length) + 1) / 2, n);  // a row sees half of the others on average
  const double peak = bench::median(limit), share = flops / typical / peak / 1e9;
  const char* clock = gpu || threads() > 1 ? "wall" : "processor";
  if (console.json()) {
    nlohmann::ordered_json out = {{"preset", s.size}, {"parameters", count_parameters(model)}, {"tokens_per_step", tokens}, {"max_len", length},
                                  {"device", s.device}, {"threads", threads()}, {"clock", clock}, {"loss", loss},
                                  {"seconds_median", typical}, {"seconds_best", best}, {"tokens_per_s", n / typical},
                                  {"tokens_per_s_best", n / best}, {"gflop_per_s", flops / typical / 1e9}, {"fma_gflop_per_s", peak},
                                  {"share_of_fma", share}, {"peak_bytes", memory.peak_bytes}, {"system_allocations", system}};
    if (table) {
      for (const KernelTime& k : kernels)
        out["kernels"].push_back({{"name", k.name}, {"share", k.seconds / profiled}, {"calls_per_step", static_cast<double>(k.calls) / static_cast<double>(s.steps)}});
      out["outside_kernels"] = 1 - inside / profiled;
    }
    if (kept) out["memory"] = {{"before", kept->before}, {"layers", kept->layers}, {"residual", kept->residual}, {"peak", kept->peak}};
    console.line("{}", out.dump(2));
    return 0;
  }
  console.line("{}", model.describe());
  console.line("{} parameters, {} x {} tokens a step, {} thread{}, AdamW, {}", grouped(static_cast<uint64_t>(count_parameters(model))), rows, length,
               threads(), threads() > 1 ? "s" : "", name_of(model.head().value().dtype()));
  console.line("{:<26}{:.4g} ms, best {:.4g} ({} time, {} steps)", "step, median", 1e3 * typical, 1e3 * best, clock, s.steps);
  console.line("{:<26}{}, best {}", "tokens/s", grouped(static_cast<uint64_t>(n / typical)), grouped(static_cast<uint64_t>(n / best)));
  console.line("{:<26}{:.1f} of {:.1f} GFLOP/s of {} in this run: {:.0f}%", "share of the limit", flops / typical / 1e9, peak,
               gpu ? "a large product" : "fused multiply-adds", 100 * share);
  console.line("{:<26}{}", "peak memory", human_bytes(memory.peak_bytes));
  console.line("{:<26}{}", "system allocations", system);
  if (kept) {
    console.line("\n{:<26}{}", "memory before a step", human_bytes(kept->before));
    for (size_t first = 0, end; first < kept->layers.size(); first = end) {  // equal layers share a line
      for (end = first + 1; end < kept->layers.size() && kept->layers[end] == kept->layers[first];) ++end;
      console.line("{:<26}{}, {:.3f} residuals", end - first > 1 ? fmt::format("layers {} to {} keep, each", first, end - 1) : fmt::format("layer {} keeps", first),
                   human_bytes(static_cast<uint64_t>(kept->layers[first])), static_cast<double>(kept->layers[first]) / static_cast<double>(kept->residual));
    }
    console.line("{:<26}{}", "a residual", human_bytes(kept->residual));
    console.line("{:<26}{}", "peak of a step", human_bytes(kept->peak));
  }
  if (!table) return 0;
  console.line();
  for (const KernelTime& k : kernels)
    console.line("{:<26}{:5.1f}%  {:8.3f} ms  {:g} calls", k.name, 100 * k.seconds / profiled, 1e3 * k.seconds / static_cast<double>(s.steps),
                 static_cast<double>(k.calls) / static_cast<double>(s.steps));
  console.line("{:<26}{:5.2f}%", "outside kernels", 100 * (1 - inside / profiled));
  return 0;
}

}  // namespace

Command bench_step_command() {
  return command<Settings>("bench step", "Time training steps: tokens/s, share of the processor's limit, memory, time by kernel",
                           "Random weights and tokens, f32 AdamW over all parameters.\n"
                           "  facet bench step --profile trace.json --threads 1\n  facet bench step --mem-report --recompute block\n  facet bench step --preset gemma3-270m --max-len 512 --steps 2",
                           run);
}

}  // namespace facet::app
