// How fast the GPU trains and decodes, beside what it can do at most: a large product and a large copy, timed in the same run.
#include <chrono>
#include <optional>

#include "app/conformance/small_model.h"
#include "app/limits.h"
#include "app/train_run.h"
#include "autograd/ops/linear_loss.h"
#include "infer/generator.h"
#include "nn/body_graphs.h"
#include "nn/lora.h"
#include "optim/adamw.h"
#include "tensor/gpu/gemm.h"
#include "tensor/gpu/overlap.h"
#include "tensor/gpu/pool.h"
#include "tensor/gpu/runtime.h"
#include "train/sft.h"

namespace facet::app {
namespace {

using bench::device_seconds;
using Clock = std::chrono::steady_clock;

// Dense bf16 products by the data sheet, for MFU; 0 where it is not known.
double nominal_flops(const gpu::DeviceInfo& d) {
  if (d.emulated) return 0;
  if (d.major == 9) return 989.4e12 * d.processors / 132;  // H100 SXM, H200
  if (d.major == 8 && d.minor == 0) return 312e12 * d.processors / 108;  // A100
  return 0;
}

std::string rate_text(double tokens_per_s) { return fmt::format("{:.0f} tokens/s", tokens_per_s); }

struct TrainCase {
  std::string name;
  int64_t rows, length;
  std::optional<Bound> speed = {}, memory = {};  ///< of tokens_per_s, activation_bytes_per_token
  Recompute recompute = Recompute::none;
  bool repeatable = true;
};

/// Whether libraries must give the same bits in every run, for a scope.
struct Repeatable {
  const bool before = gpu::deterministic();
  explicit Repeatable(bool on) { gpu::set_deterministic(on); }
  ~Repeatable() { gpu::set_deterministic(before); }
  Repeatable(const Repeatable&) = delete;
};

double gradient_bytes(Gemma& model) {
  double bytes = 0;
  for (Parameter* p : parameters(model))
    if (const Tensor g = p->grad()) bytes += static_cast<double>(g.numel() * size_of(g.dtype()));
  return bytes;
}

// `seconds`: of a step.
Outcome time_case(Gemma& model, const TrainCase& k, const Probe& limit, bool tiny, double& seconds) {
  const Repeatable scope(k.repeatable);
  model.recompute = k.recompute;
  model.graphs.reset();  // of the case before
  for (Parameter* p : parameters(model)) p->clear_grad();
  gpu::pool_trim();
  gpu::pool_reset_peak();
  const double weights = static_cast<double>(device_bytes());
  AdamW optimizer(parameter_groups(model, 0.01), {});
  optimizer.keep_gradients(true);
  model.graphs = std::make_shared<BodyGraphs>(model);
  const double state = static_cast<double>(device_bytes()) - weights;
  const Batch batch = random_batch(k.rows, k.length, model.vocab(), 3);
  const double tokens = static_cast<double>(k.rows * k.length);
  double loss = 0;
  seconds = device_seconds(
      [&] {
        loss = batch_loss(model, batch, 1.0 / static_cast<double>(batch.supervised));
        const Clip clip = optimizer.clip(1.0);
        optimizer.step(1e-5, clip.scale);
      },
      tiny ? 0 : 1.0);
  if (!std::isfinite(loss)) fail(Kind::check, "the loss is not finite");
  const double flops = model.step_flops(tokens, (static_cast<double>(k.length) + 1) / 2, tokens) / seconds;
  const double nominal = nominal_flops(gpu::device()), peak = static_cast<double>(gpu::pool_stats().peak_bytes);
  const double gradients = gradient_bytes(model);
  const int64_t element = size_of(model.compute());
  const auto chunk = static_cast<double>(element * model.vocab() * linear_loss_chunk(k.rows * k.length, model.vocab(), Device::gpu, element));
  Outcome o{true, fmt::format("{}, {:.1f} ms a step of {} x {}, {:.1f} TFLOP/s = {:.0f}% of the product's", rate_text(tokens / seconds), 1e3 * seconds, k.rows,
                              k.length, flops / 1e12, 100 * flops / limit.flops_per_s),
            {{"tokens_per_s", tokens / seconds}, {"seconds_per_step", seconds}, {"flops_per_s", flops}, {"share_of_probe", flops / limit.flops_per_s},
             {"weights_bytes", weights}, {"optimizer_bytes", state}, {"gradient_bytes", gradients}, {"chunk_bytes", chunk}, {"peak_bytes", peak},
             {"activation_bytes_per_token", (peak - weights - state - gradients - chunk) / tokens}}};
  if (nominal > 0) {
    o.detail += fmt::format(", MFU {:.1f}%", 100 * flops / nominal);
    o.figures.emplace_back("mfu", flops / nominal);
  }
  o.detail += fmt::format(", peak {:.2f} GB", peak / 1e9);
  if (k.speed) weigh(o, "tokens_per_s", *k.speed);
  if (k.memory) weigh(o, "activation_bytes_per_token", *k.memory);
  return o;
}

struct Sized {
  std::string name;
  std::unique_ptr<Gemma> model;
};
Sized bf16_model(const Conformance& c, const std::string& name) {
  if (c.tiny) return {name, small_model(c, DType::bf16, Device::gpu)};
  auto model = std::make_unique<Gemma>(preset(name), DType::bf16);
  model->init(key(c.seed));
  model->to(Device::gpu);
  return {name, std::move(model)};
}

struct DecodeTimes {
  double prefill, step;  // seconds
  int64_t cache_bytes;
};
// `rows` prompts of `context` tokens, then `fresh` tokens for each, once to warm up.
DecodeTimes decode_times(Gemma& model, int64_t rows, int64_t context, int64_t fresh) {
  Generator g(model, rows, context + 2 * fresh + 2);
  std::vector<int64_t> all;
  std::vector<std::vector<int32_t>> prompts, next;
  for (int64_t r = 0; r < rows; ++r) {
    all.push_back(r);
    prompts.emplace_back();
    for (int64_t i = 0; i < context; ++i) prompts.back().push_back(static_cast<int32_t>((i * 7919 + r * 131 + 13) % model.vocab()));
    next.push_back({static_cast<int32_t>(3 + r % 40)});
  }
  const auto since = [](Clock::time_point begin) {
    gpu::synchronize();
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  const auto prefill_begin = Clock::now();
  g.feed(all, prompts);
  const double prefill = since(prefill_begin);
  GenerateOptions o;
  o.sampling.temperature = 0;
  o.max_new = fresh;
  o.ignore_stop = true;
  continue_rows(g, all, next, o);
  const auto begin = Clock::now();
  continue_rows(g, all, next, o);
  return {prefill, since(begin) / static_cast<double>(fresh), g.cache_bytes()};
}

}  // namespace

Probe probe(Conformance& c, const ProbeSize& size) {
  Probe limit;
  const double series = c.tiny ? 0 : 0.4;
  c.measure(fmt::format("product of {0} x {0} x {0}, bf16", size.product), [&] {
    limit.flops_per_s = product_rate(size.product, DType::bf16, series);
    const double nominal = nominal_flops(gpu::device());
    return Outcome{true, fmt::format("{:.1f} TFLOP/s{}", limit.flops_per_s / 1e12, nominal > 0 ? fmt::format(", {:.0f}% of the data sheet", 100 * limit.flops_per_s / nominal) : ""),
                   {{"flops_per_s", limit.flops_per_s}, {"nominal_flops_per_s", nominal}}};
  });
  c.measure(fmt::format("copy of {} MB", size.copy_mb), [&] {
    const CopyRate rate = copy_rate(size.copy_mb << 20, series);
    limit.bytes_per_s = rate.best();
    return Outcome{true, fmt::format("{:.2f} TB/s both ways (the driver's {:.2f}, our kernel's {:.2f})", rate.best() / 1e12, rate.driver / 1e12, rate.kernel / 1e12),
                   {{"bytes_per_s", rate.best()}, {"driver_bytes_per_s", rate.driver}, {"kernel_bytes_per_s", rate.kernel}}};
  });
  return limit;
}

void time_training(Conformance& c, const Probe& limit) {
  const bool bounds = has_bounds(c);
  const auto bound = [&](double accepted, double goal, bool most = false) { return bounds ? std::optional(Bound{accepted, goal, most}) : std::nullopt; };
  for (const char* size : {"gemma3-270m", "gemma3-1b"}) {
    Sized sized;
    c.measure(fmt::format("{}: weights", size), [&] {
      sized = bf16_model(c, size);
      return Outcome{true, fmt::format("{} parameters, random", count_parameters(*sized.model)), {}};
    });
    if (!sized.model) continue;
    Gemma& model = *sized.model;
    const bool large = size == std::string("gemma3-1b");
    // 32k tokens at once, as the goals have it, where there is the room: 1B keeps 54 GB of them beside 18 GB of its own.
    const int64_t rows = c.tiny ? 1 : gpu::free_bytes() > size_t{100} << 30 ? 16 : 8, length = c.tiny ? 8 : 2048;
    const auto sequences = [&](const char* what, int64_t times) {
      return TrainCase{fmt::format("{}: {}, T = {}", size, what, times * length), std::max<int64_t>(1, rows / times), times * length};
    };
    const auto timed = [&](const TrainCase& k) {
      double seconds = 0;
      c.measure(k.name, [&] { return time_case(model, k, limit, c.tiny, seconds); });
      return seconds;
    };
    TrainCase full = sequences("full", 1);
    full.speed = large ? bound(72e3, 88e3) : bound(195e3, 240e3);
    const double repeatable = timed(full);
    timed(sequences("full", 4));
    if (large) {
      TrainCase norms = sequences("full, norms computed again", 1), any_order = sequences("full, sums in any order", 1);
      norms.recompute = Recompute::norms, norms.speed = full.speed, norms.memory = bound(1.3e6, 1.15e6, true);
      any_order.repeatable = false;
      timed(norms);
      const double unordered = timed(any_order);
      if (repeatable > 0 && unordered > 0)
        c.measure(fmt::format("{}: what the same bits in every run cost", size), [&] {
          const double cost = repeatable / unordered - 1;
          Outcome o{true, fmt::format("{:.1f}% of a step's time", 100 * cost), {{"cost", cost}}};
          if (bounds) weigh(o, "cost", {0.15, 0.10, true});
          return o;
        });
    }
    Adapters adapters(model);
    adapters.add("conformance", {.rank = c.tiny ? 4 : 16, .alpha = 32}, key(c.seed + 1));
    TrainCase lora = sequences("LoRA", 1);
    if (large) lora.speed = bound(100e3, 118e3);
    timed(lora);
    timed(sequences("LoRA", 4));
  }
}

void time_decoding(Conformance& c, const Probe& limit) {
  const NoGrad off;
  for (const char* size : {"gemma3-270m", "gemma3-1b"}) {
    Sized sized;
    c.measure(fmt::format("{}: weights", size), [&] {
      sized = bf16_model(c, size);
      return Outcome{true, fmt::format("{} parameters, random", count_parameters(*sized.model)), {}};
    });
    if (!sized.model) continue;
    Gemma& model = *sized.model;
    const double weights = bytes_of(parameters(model));
    const bool large = has_bounds(c) && size == std::string("gemma3-1b");
    for (int64_t batch : {1, 64, 256}) {
      const int64_t rows = c.tiny ? std::min<int64_t>(batch, 4) / (batch == 64 ? 2 : 1) : batch;
      const int64_t context = c.tiny ? 6 : 1024, fresh = c.tiny ? 3 : 128;
      c.measure(fmt::format("{}: decode, batch {}, context {}", size, rows, context), [&] {
        const DecodeTimes t = decode_times(model, rows, context, fresh);
        const double rate = static_cast<double>(rows) / t.step, read = weights / t.step, prompts = static_cast<double>(rows * context) / t.prefill;
        Outcome found{true,
                      fmt::format("{}, {:.3f} ms a step, weights read at {:.0f}% of the copy's rate; prompts {}", rate_text(rate), 1e3 * t.step,
                                  100 * read / limit.bytes_per_s, rate_text(prompts)),
                      {{"tokens_per_s", rate}, {"seconds_per_step", t.step}, {"weight_bytes_per_s", read}, {"share_of_probe", read / limit.bytes_per_s},
                       {"prefill_tokens_per_s", prompts}, {"cache_bytes", static_cast<double>(t.cache_bytes)}}};
        if (batch == 1 && gpu::overlaps_launches()) {
          const gpu::PlainLaunches plain;
          const double apart = decode_times(model, rows, context, fresh).step;
          found.detail += fmt::format("; kernels one after the other {:.3f} ms", 1e3 * apart);
          found.figures.emplace_back("tokens_per_s_without_overlap", static_cast<double>(rows) / apart);
        }
        if (large && batch == 1) weigh(found, "tokens_per_s", {1100, 1500});
        if (large && batch == 64) weigh(found, "tokens_per_s", {35e3, 55e3});
        return found;
      });
    }
  }
}

}  // namespace facet::app
