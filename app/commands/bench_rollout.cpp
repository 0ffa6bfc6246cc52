// How fast completions are drawn for learning from rewards, and what a batch of rows gains over a single one.
#include <algorithm>

#include <nlohmann/json.hpp>

#include "app/command.h"
#include "app/limits.h"
#include "data/make_tokenizer.h"
#include "data/radicals.h"
#include "data/tokenizer.h"
#include "infer/rollout.h"
#include "models/gemma/model.h"
#include "tensor/cpu/tier.h"
#include "tensor/parallel.h"
#include "tensor/profile.h"

namespace facet::app {
namespace {

struct Settings : Common {
  std::string preset_name = "tiny";
  int64_t prompts = 32, group = 8, rows = 256, max_new = 16, decode = 32, rounds = 9;
  bool profile = false;
  std::map<std::string, std::string> overrides;
  void declare(Options& o) {
    o.add("preset", &preset_name, "size of the model; its weights are random and stay in memory").choices(preset_names());
    o.add("prompts", &prompts, "prompts of a rollout, square roots to simplify").range(1, 1 << 20);
    o.add("group", &group, "completions of each").range(1, 1 << 20);
    o.add("rows", &rows, "completions in work at a time").range(1, 1 << 16);
    o.add("max-new", &max_new, "tokens of a completion").range(1, 1 << 16);
    o.add("decode", &decode, "steps over which 64 rows and one row are compared").range(2, 1 << 16);
    o.add("rounds", &rounds, "times everything is measured").range(1, 1000);
    o.add("profile", &profile, "where the time of the first rollout goes, kernel by kernel");
    o.pass_through("model", overrides);
  }
};

int run(Settings& s, Options&, Console& console) {
  use_threads(s.threads, console);
  const DType dtype = weight_dtype(s.dtype);
  GemmaConfig config = preset(s.preset_name);
  const Tokenizer tokenizer = Tokenizer::from_bytes(char_tokenizer(radicals_alphabet()), "the demo's tokenizer");
  if (config.vocab < 1 << 16) config.vocab = tokenizer.vocab_size();  // the demo's model; larger ones keep their own vocabulary
  for (const auto& [key, value] : s.overrides) set_field(config, key, value);
  Gemma model(config, dtype);
  model.init(key(static_cast<uint64_t>(s.seed)));
  model.to(timed_device(s));
  const NoGrad off;
  const std::vector<Parameter*> weights = parameters(model);
  const double bytes = bytes_of(weights);

  RadicalsOptions task;
  task.train = s.prompts, task.valid = task.test = 1;
  std::vector<std::vector<int32_t>> prompts;
  for (const Radical& r : make_radicals(task, RadicalSplit::train)) {
    prompts.push_back({tokenizer.specials().bos});
    const Ids ids = tokenizer.encode(r.prompt);
    prompts.back().insert(prompts.back().end(), ids.begin(), ids.end());
  }
  Roller roller(model);
  RolloutOptions o{.group = s.group, .max_new = s.max_new, .rows = s.rows, .stop = tokenizer.stop_ids(), .key = key(7)};
  RolloutFigures figures;
  const auto roll = [&](int64_t group) {
    o.group = group;
    return seconds([&] { roller(prompts, o, &figures); });
  };

  // One prompt, so many rows of it, all of one length: decoding and nothing else.
  Roller decoder(model);
  const auto decode = [&](int64_t rows) {
    RolloutOptions d{.group = rows, .max_new = s.decode, .rows = rows, .key = key(8)};
    return seconds([&] { decoder({prompts.data(), 1}, d); }) / static_cast<double>(s.decode);  // of a step
  };
  constexpr int64_t batch = 64;
  const Products products(weights, batch);

  const int all = threads();
  std::vector<double> rate[2], per_completion[2], many, one, product, read, gain, share, bandwidth;
  RolloutFigures shown;
  roll(2 * s.group), roll(s.group), decode(batch), decode(1), products(), read_all(weights);
  if (s.profile) {
    profile_start();
    roll(s.group);
    const double total = profile_seconds();
    auto times = profile_stop();
    std::vector<KernelTime> list(times.begin(), times.end());
    std::sort(list.begin(), list.end(), [](const KernelTime& a, const KernelTime& b) { return a.seconds > b.seconds; });
    for (const KernelTime& k : list)
      console.line("{:22} {:7} calls {:9.3f} ms {:5.1f}% {:8.2f} us each", k.name, k.calls, 1e3 * k.seconds, 100 * k.seconds / total, 1e6 * k.seconds / static_cast<double>(k.calls));
    double inside = 0;
    for (const KernelTime& k : list) inside += k.seconds;
    console.line("{:22} {:7} steps {:9.3f} ms {:5.1f}%", "outside kernels", figures.steps, 1e3 * (total - inside), 100 * (1 - inside / total));
  }
  for (int64_t round = 0; round < s.rounds; ++round) {
    console.progress("measuring", round, s.rounds);
    for (int i = 0; i < (all > 1 ? 2 : 1); ++i) {
      set_threads(i == 0 ? 1 : all);
      const double t = roll(s.group);
      rate[i].push_back(static_cast<double>(figures.sampled) / t);
      shown = figures;
    }
    // As many completions, twice as many of each prompt.
    const double t = roll(s.group) / static_cast<double>(s.group), t2 = roll(2 * s.group) / static_cast<double>(2 * s.group);
    per_completion[0].push_back(t / static_cast<double>(s.prompts)), per_completion[1].push_back(t2 / static_cast<double>(s.prompts));
    product.push_back(seconds(products));
    many.push_back(decode(batch));
    read.push_back(seconds([&] { read_all(weights); }));
    one.push_back(decode(1));
    gain.push_back(static_cast<double>(batch) * one.back() / many.back());
    share.push_back(product.back() / many.back());
    bandwidth.push_back(read.back() / one.back());
  }
  console.progress_end();

  using bench::median;
  const double per_core = median(rate[0]);
  const double per_all = all > 1 ? median(rate[1]) : per_core;
  if (console.json()) {
    nlohmann::ordered_json j{{"preset", s.preset_name}, {"dtype", name_of(dtype)}, {"device", s.device}, {"threads", all}, {"rows", s.rows}, {"group", s.group},
                             {"sampled", shown.sampled}, {"prefilled", shown.prefilled}, {"steps", shown.steps}, {"busy", shown.busy},
                             {"tokens_per_s_one_thread", per_core}, {"tokens_per_s", per_all},
                             {"completion_us", 1e6 * median(per_completion[0])}, {"completion_us_double_group", 1e6 * median(per_completion[1])},
                             {"decode_64_rows_tokens_per_s", batch / median(many)}, {"decode_one_row_tokens_per_s", 1 / median(one)},
                             {"batch_gain", median(gain)}, {"share_of_products", median(share)}, {"share_of_read", median(bandwidth)},
                             {"cache_bytes", roller.cache_bytes()}};
    console.line("{}", j.dump());
    return 0;
  }
  console.line("{} {}, {}, medians of {} rounds", s.preset_name, name_of(dtype), where_timed(model.device()), s.rounds);
  console.line("rollout        {:8.0f} tokens/s on one thread, {:.0f} on {}; {} prompts x {} in {} rows, {} tokens drawn, {:.1f} a completion, rows {:.0f}% busy",
               per_core, per_all, all, s.prompts, s.group, s.rows, shown.sampled,
               static_cast<double>(shown.sampled) / static_cast<double>(s.prompts * s.group), 100 * shown.busy);
  console.line("a completion   {:8.1f} us in groups of {}, {:.1f} us in groups of {}: x {:.2f}", 1e6 * median(per_completion[0]), s.group,
               1e6 * median(per_completion[1]), 2 * s.group, median(per_completion[1]) / median(per_completion[0]));
  console.line("decode 64 rows {:8.1f} tokens/s = {:.1f} x one row; {:.0f}% of the products' rate at 64 rows", batch / median(many), median(gain),
               100 * median(share));
  console.line("decode one row {:8.1f} tokens/s, {:.1f} GB/s = {:.0f}% of the {}", 1 / median(one), bytes / median(one) / 1e9,
               100 * median(bandwidth), model.device() == Device::gpu ? "copy" : "read loop");
  console.line("cache          {:8.2f} MB", static_cast<double>(roller.cache_bytes()) / 1e6);
  return 0;
}

}  // namespace

Command bench_rollout_command() {
  return command<Settings>("bench rollout", "Speed of drawing many completions of many prompts, and of decoding in batches",
                           "  facet bench rollout\n  facet bench rollout --preset gemma3-270m --rows 64 --prompts 8 --rounds 3", run);
}

}  // namespace facet::app
