// How fast a model reads and answers, against what the machine can do, all measured in one run.
#include <algorithm>
#include <chrono>
#include <memory>

#include <nlohmann/json.hpp>

#include "app/command.h"
#include "app/limits.h"
#include "app/model_folder.h"
#include "infer/generator.h"
#include "models/gemma/model.h"
#include "tensor/io/durable.h"
#include "tensor/parallel.h"
#include "tensor/storage.h"

namespace facet::app {
namespace {

struct Settings : Common {
  std::string model, preset_name = "gemma3-270m";
  int64_t prompt = 512, rounds = 9;
  std::map<std::string, std::string> overrides;
  void declare(Options& o) {
    o.add("model", &model, "folder of a model to load, which is timed too, instead of one of random weights").positional();
    o.add("preset", &preset_name, "size of the model of random weights").choices(preset_names());
    o.add("prompt", &prompt, "tokens of the prompt").range(1, 1 << 16);
    o.add("rounds", &rounds, "times everything is measured").range(1, 1000);
    o.pass_through("model", overrides);
  }
};

std::vector<int32_t> some_tokens(int64_t n, int64_t vocab) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>((i * 7919 + 13) % vocab));
  return ids;
}

int run(Settings& s, Options&, Console& console) {
  use_threads(s.threads, console);
  const Device device = timed_device(s);
  std::unique_ptr<Gemma> owner;
  double load_seconds = 0;  // on the wall: reading waits
  if (s.model.empty()) {
    GemmaConfig shape = preset(s.preset_name);
    for (const auto& [key, value] : s.overrides) set_field(shape, key, value);
    owner = std::make_unique<Gemma>(shape, weight_dtype(s.dtype));
    owner->init(key(static_cast<uint64_t>(s.seed)));
    owner->to(device);
  } else {
    const auto begin = std::chrono::steady_clock::now();
    owner = open_model(s.model, s.overrides, s.dtype, TokenizerNeed::optional, "", device).model;
    load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  Gemma& model = *owner;
  const GemmaConfig& config = model.config;
  const DType dtype = model.head().value().dtype();
  const std::string& name = s.model.empty() ? s.preset_name : s.model;
  const NoGrad off;
  const std::vector<Parameter*> weights = parameters(model);
  const double bytes = bytes_of(weights);

  // A row that has just read so many tokens; decoding goes on from there.
  struct Place {
    int64_t position;
    std::unique_ptr<Generator> generator;
    int32_t last;  // drawn, not computed yet
    std::vector<double> seconds;
  };
  GenerateOptions greedy;
  greedy.sampling.temperature = 0;
  greedy.ignore_stop = true;
  greedy.max_new = model.device() == Device::gpu ? greedy.poll : 1;  // tokens between two looks of the host
  std::vector<Place> places;
  for (const int64_t position : {64, 512, 1024, 2048}) {
    const int64_t capacity = position + s.rounds * greedy.max_new + 1;
    if (capacity > config.context) continue;
    places.push_back({position, std::make_unique<Generator>(model, 1, capacity), 0, {}});
    Generator& g = *places.back().generator;
    g.feed(0, some_tokens(position, config.vocab));
    places.back().last = draw(g.logits(0), greedy.sampling, {}).id;
  }
  const auto decode = [&](Place& p) { p.last = continue_rows(*p.generator, {0}, {{p.last}}, greedy).front().tokens.back(); };

  const Products products(weights, s.prompt, &model.head());  // of the prompt alone
  const int64_t capacity = s.prompt + 1;
  Generator reader(model, 1, capacity);
  const auto question = some_tokens(s.prompt, config.vocab);
  const auto prefill = [&] {
    reader.forget(0);
    reader.feed(0, question);
  };
  products(), prefill();

  std::vector<double> read, product, fill, decode_share, fill_share;
  const double fill_flops = model.forward_flops(static_cast<double>(s.prompt), static_cast<double>(s.prompt) / 2, 1);
  for (int64_t round = 0; round < s.rounds; ++round) {
    console.progress("measuring", round, s.rounds);
    read.push_back(seconds([&] { read_all(weights); }));
    for (Place& p : places) p.seconds.push_back(seconds([&] { decode(p); }) / static_cast<double>(greedy.max_new));
    decode_share.push_back(read.back() / places.front().seconds.back());
    product.push_back(seconds(products));
    fill.push_back(seconds(prefill));
    fill_share.push_back(fill_flops / fill.back() / (products.flops() / product.back()));
  }
  console.progress_end();

  const double gb = bytes / 1e9, first = bench::median(places.front().seconds);
  const size_t peak = pool_stats(device).peak_bytes;
  const int64_t kv = places.back().generator->cache_bytes();
  if (console.json()) {
    nlohmann::ordered_json j{{s.model.empty() ? "preset" : "model", name}, {"dtype", name_of(dtype)}, {"device", s.device}, {"threads", threads()}, {"weight_bytes", bytes},
                             {"read_gb_per_s", gb / bench::median(read)}, {"decode_gb_per_s", gb / first},
                             {"decode_share_of_read", bench::median(decode_share)}};
    if (load_seconds > 0) j["load_s"] = load_seconds;
    j["decode_tokens_per_s"] = 1 / first;
    for (const Place& p : places) j["decode_ms"][std::to_string(p.position)] = 1e3 * bench::median(p.seconds);
    j["product_gflop_per_s"] = products.flops() / bench::median(product) / 1e9;
    j["prefill_gflop_per_s"] = fill_flops / bench::median(fill) / 1e9;
    j["prefill_share_of_products"] = bench::median(fill_share);
    j["prefill_tokens_per_s"] = static_cast<double>(s.prompt) / bench::median(fill);
    j["cache_bytes"] = kv;
    j["peak_bytes"] = peak;
    console.line("{}", j.dump());
    return 0;
  }
  const bool gpu = model.device() == Device::gpu;
  console.line("{} {}, {}, medians of {} rounds", name, name_of(dtype), where_timed(model.device()), s.rounds);
  if (load_seconds > 0) console.line("load           {:7.2f} s", load_seconds);
  console.line("{:<15}{:7.1f} GB/s over {:.2f} GB of weights", gpu ? "copy" : "read loop", gb / bench::median(read), gb);
  for (const Place& p : places) {
    const double t = bench::median(p.seconds);
    console.line("decode at {:>4} {:7.1f} tokens/s, {:6.2f} ms, {:5.1f} GB/s{}", p.position, 1 / t, 1e3 * t, gb / t,
                 &p == &places.front() ? fmt::format(" = {:.0f}% of the {}", 100 * bench::median(decode_share), gpu ? "copy" : "read loop")
                                       : fmt::format(", time x {:.2f}", t / first));
  }
  console.line("products       {:7.1f} GFLOP/s, {} rows through every matrix", products.flops() / bench::median(product) / 1e9, s.prompt);
  console.line("prefill {:>5}  {:7.1f} GFLOP/s = {:.0f}% of the products' rate, {:.0f} tokens/s", s.prompt, fill_flops / bench::median(fill) / 1e9,
               100 * bench::median(fill_share), static_cast<double>(s.prompt) / bench::median(fill));
  console.line("cache          {:7.2f} MB for one row of {} positions", static_cast<double>(kv) / 1e6, places.back().generator->capacity());
  console.line("peak memory    {:>10}", human_bytes(peak));
  return 0;
}

}  // namespace

Command bench_infer_command() {
  return command<Settings>("bench infer", "Speed of decoding and of reading a prompt, as shares of the machine's limits",
                           "  facet bench infer --preset gemma3-270m --dtype bf16\n  facet bench infer run/final --prompt 128", run);
}

}  // namespace facet::app
