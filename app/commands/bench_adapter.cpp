// What adapters cost: steps of LoRA at several ranks against full steps of the same shape, taking turns, and the memory of each against
// its plan.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <memory>

#include "app/command.h"
#include "app/limits.h"
#include "app/train_run.h"
#include "autograd/ops.h"
#include "optim/adamw.h"
#include "tensor/gpu/pool.h"
#include "tensor/io/durable.h"
#include "tensor/io/text.h"
#include "tensor/parallel.h"
#include "tensor/storage.h"
#include "tensor/profile.h"
#include "train/sft.h"

namespace facet::app {
namespace {

struct Settings : Common {
  std::string size = "tiny", recompute = "none";
  std::optional<int64_t> max_len, batch;
  int64_t rounds = 5, low = 8, high = 64;
  bool no_full = false;
  std::map<std::string, std::string> overrides;
  void declare(Options& o) {
    o.add("preset", &size, "size of the model").choices(preset_names());
    o.add("max-len", &max_len, "tokens in a row; default: 24 for tiny, 256 else").range(1, 1 << 20);
    o.add("batch", &batch, "rows in a step; default: 128 for tiny, 1 else").range(1, 1 << 20);
    o.add("rounds", &rounds, "steps of each kind that are timed, after two that are not").range(1, 1e6);
    o.add("rank", &low, "the smaller rank").range(1, 65536);
    o.add("high-rank", &high, "the larger rank").range(1, 65536);
    o.add("recompute", &recompute, "what backward computes again to save memory").choices(recompute_names());
    o.add("no-full", &no_full, "leave the full step out, where its memory does not fit");
    o.pass_through("model", overrides);
  }
};

/// One way to train the model that all of them share: nothing is copied when they take turns.
struct Contender {
  std::string name;  ///< of its adapter, too
  int64_t rank = 0;  ///< 0: all parameters train, no adapter is on
  std::vector<std::string> targets = {};
  std::unique_ptr<AdamW> optimizer = {};
  std::vector<double> seconds = {};
  double planned = 0, peak = 0, flops = 0;  ///< bytes, bytes, of all products in a step

  void begin(Adapters& adapters, uint64_t seed) {
    if (rank > 0)
      adapters.add(name, {.rank = rank, .alpha = 16, .dropout = 0, .rslora = false, .dora = false, .targets = targets, .ranks = {}, .alphas = {}}, key(seed));
    use(adapters);
    optimizer = std::make_unique<AdamW>(parameter_groups(adapters.model(), 0.01), AdamWOptions{});
  }
  void use(Adapters& adapters) const {
    adapters.use("");
    set_trains(adapters.model(), "*", rank == 0);
    if (rank > 0) adapters.use(name);
  }
  void step(Adapters& adapters, const Batch& batch) const {
    use(adapters);
    batch_loss(adapters.model(), batch, 1.0 / static_cast<double>(batch.supervised));
    const Clip clip = optimizer->clip(1.0);
    optimizer->step(1e-4, clip.scale);
  }
};

int run(Settings& s, Options&, Console& console) {
  use_threads(s.threads, console);
  const bool tiny = s.size == "tiny";
  const int64_t length = s.max_len.value_or(tiny ? 24 : 256), rows = s.batch.value_or(tiny ? 128 : 1);
  GemmaConfig config = preset(s.size);
  for (const auto& [key, value] : s.overrides) set_field(config, key, value);
  const DType dtype = weight_dtype(s.dtype);
  const auto seed = static_cast<uint64_t>(s.seed);
  const Batch batch = random_batch(rows, length, config.vocab, seed);
  const Recompute recompute = recompute_of(s.recompute);

  std::vector<Contender> list;
  if (!s.no_full) list.push_back({.name = "full"});
  for (const int64_t rank : {s.low, s.high}) {
    list.push_back({.name = fmt::format("LoRA rank {}, all linear", rank), .rank = rank, .targets = {"all-linear"}});
    list.push_back({.name = fmt::format("LoRA rank {}, q and v", rank), .rank = rank, .targets = {"q", "v"}});
  }
  // Memory and products first, each way as if the others were not there; then the clock. On a CPU they take turns, so that what else runs there
  // slows all of them. On a GPU each is done before the next begins: adapters move the matrices they are added to, which nobody trains after that.
  const Device device = timed_device(s);
  const size_t before = pool_stats(device).live_bytes;
  Gemma model(config, dtype);
  model.init(key(seed));
  model.to(device);
  model.recompute = recompute;
  Adapters adapters(model);
  const size_t base = pool_stats(device).live_bytes - before;
  const auto progress = [&](int64_t done) { console.progress("steps", done, s.rounds * static_cast<int64_t>(list.size())); };
  const auto timed_step = [&](Contender& c) {
    const double begin = bench::now();
    c.step(adapters, batch);
    c.seconds.push_back(bench::now() - begin);
  };
  for (Contender& c : list) {
    const size_t others = pool_stats(device).live_bytes - base;
    c.begin(adapters, seed);
    c.planned = plan_memory(model, rows * length, {}, {rows, length}).total();
    c.step(adapters, batch);
    device == Device::gpu ? gpu::pool_reset_peak() : pool_reset_peak();
    count_products();
    c.step(adapters, batch);
    c.flops = static_cast<double>(counted_products().flops);
    c.peak = static_cast<double>(pool_stats(device).peak_bytes - others);
    if (device == Device::cpu) continue;
    for (int64_t round = 0; round < s.rounds; ++round) {
      progress((&c - list.data()) * s.rounds + round);
      timed_step(c);
    }
    c.optimizer.reset();
  }
  for (int64_t round = 0; device == Device::cpu && round < s.rounds; ++round)
    for (Contender& c : list) {
      progress(round * static_cast<int64_t>(list.size()) + (&c - list.data()));
      timed_step(c);
    }
  console.progress_end();

  const auto best = [](const Contender& c) { return *std::min_element(c.seconds.begin(), c.seconds.end()); };
  const auto by_name = [&](const std::string& name) -> const Contender& {
    return *std::find_if(list.begin(), list.end(), [&](const Contender& c) { return c.name == name; });
  };
  const auto growth = [&](const char* what) {
    return best(by_name(fmt::format("LoRA rank {}, {}", s.high, what))) / best(by_name(fmt::format("LoRA rank {}, {}", s.low, what)));
  };
  if (console.json()) {
    nlohmann::ordered_json out{{"preset", s.size}, {"tokens", rows * length}, {"device", s.device}, {"threads", threads()}, {"dtype", name_of(dtype)}};
    for (const Contender& c : list)
      out["steps"].push_back({{"name", c.name}, {"seconds_best", best(c)}, {"seconds_median", bench::median(c.seconds)}, {"gflop", c.flops / 1e9},
                              {"peak_bytes", c.peak}, {"planned_bytes", c.planned}});
    out["rank_cost_all_linear"] = growth("all linear");
    out["rank_cost_q_v"] = growth("q and v");
    console.line("{}", out.dump(2));
    return 0;
  }
  console.line("{} layers of {}, {} x {} tokens, {}, {}", config.layers, s.size, rows, length, name_of(dtype), where_timed(device));
  console.line("  {:<28}{:>12}{:>12}{:>10}{:>14}{:>14}", "step", "best", "median", "to full", "GFLOP/token", "peak / plan");
  for (const Contender& c : list)
    console.line("  {:<28}{:>9.4g} ms{:>9.4g} ms{:>10}{:>14.3f}{:>9} {:.2f}", c.name, 1e3 * best(c), 1e3 * bench::median(c.seconds),
                 s.no_full ? "-" : fmt::format("{:.2f}", best(c) / best(list[0])), c.flops / 1e9 / static_cast<double>(rows * length),
                 human_bytes(static_cast<uint64_t>(c.peak)), c.peak / c.planned);
  console.line("rank {} against {}: {:.2f} times on all linear layers, {:.2f} on q and v", s.high, s.low, growth("all linear"), growth("q and v"));
  return 0;
}

}  // namespace

Command bench_adapter_command() {
  return command<Settings>("bench adapter", "Time LoRA steps of two ranks against full steps, and compare their memory with the plan",
                           "Random weights and tokens. Best times are compared: neighbours only make a step slower.\n"
                           "  facet bench adapter\n  facet bench adapter --preset gemma3-1b --dtype bf16 --set model.num_hidden_layers=6",
                           run);
}

}  // namespace facet::app
