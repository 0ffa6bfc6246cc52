// Attention alone, at growing lengths: its share of the machine's limit, how time and memory grow, and what heads that share keys save.
#include <nlohmann/json.hpp>

#include <algorithm>

#include "app/check/report.h"
#include "app/command.h"
#include "app/limits.h"
#include "autograd/ops.h"
#include "autograd/parameter.h"
#include "bench/support/attention_case.h"
#include "models/gemma/twin.h"
#include "tensor/io/durable.h"
#include "tensor/io/text.h"
#include "tensor/storage.h"

namespace facet::app {
namespace {

struct Settings : Common {
  std::string size = "gemma3-1b";
  int64_t max_len = 4096, batch = 1, rounds = 5;
  std::optional<int64_t> window;
  std::map<std::string, std::string> overrides;
  void declare(Options& o) {
    o.add("preset", &size, "model whose heads are taken").choices(preset_names());
    o.add("max-len", &max_len, "the longest sequence; a half and a quarter of it are timed, too").range(4, 1 << 20);
    o.add("batch", &batch, "rows").range(1, 1 << 20);
    o.add("window", &window, "positions that a token sees, its own included; 0: all before it; default: the model's, of local layers").range(0, 1 << 20);
    o.add("rounds", &rounds, "slices of time for each direction, the best of which counts").range(1, 1e6);
    o.pass_through("model", overrides);
  }
};

struct Row {
  int64_t tokens;
  double forward_s, backward_s, forward_share, backward_share;  ///< shares of fused multiply-adds, over visible pairs
  size_t bytes;                                                 ///< of a pass and its gradients, operands not counted
};

// Result and gradient of k of one pass on the tape, and the memory both directions took at their peak.
struct Pass {
  Tensor y, dk;
  size_t bytes = 0;

  Pass(const bench::AttentionCase& c, const GemmaConfig& config, int64_t window, bool repeat) {
    Parameter q(c.q), k(c.k), v(c.v);
    const AttentionMask mask{.q_positions = c.q_positions, .k_positions = {}, .q_segments = {}, .k_segments = {}, .window = window};
    const auto heads = [&](const Parameter& x) { return repeat ? repeat_heads(x.value(), config.heads) : x.value(); };
    pool_reset_peak();
    const size_t before = pool_stats().live_bytes;
    y = attention(q.value(), heads(k), heads(v), mask, config.query_scale());
    backward(y, c.dy);
    dk = k.grad();
    bytes = pool_stats().peak_bytes - before;
    y = y.detach();
  }
};

int run(Settings& s, Options&, Console& console) {
  use_threads(s.threads, console);
  if (s.where() == Device::gpu) fail(Kind::usage, "bench attn: times the processor; facet bench op attention --device cuda times a GPU");
  GemmaConfig config = preset(s.size);
  for (const auto& [key, value] : s.overrides) set_field(config, key, value);
  config.check();
  const int64_t window = s.window.value_or(config.window), H = config.heads, K = config.kv_heads, Dh = config.head_dim;
  const DType dtype = weight_dtype(s.dtype);
  const auto problem = [&](int64_t T) { return bench::AttentionCase({"", s.batch, T, T, H, K, Dh, window, dtype}); };

  std::vector<Row> rows;
  for (const int64_t T : {s.max_len / 4, s.max_len / 2, s.max_len}) {
    console.progress("lengths", static_cast<int64_t>(rows.size()), 3);
    bench::AttentionCase c = problem(T);
    const double pairs = c.pairs * static_cast<double>(Dh);
    const auto rate = bench::race({bench::multiply_adds, [&] { return c.forward(), 4 * pairs; }, [&] { return c.backward(), 10 * pairs; }}, 0.004,
                                  static_cast<int>(s.rounds));
    rows.push_back({T, 4 * pairs / rate[1] / 1e9, 10 * pairs / rate[2] / 1e9, rate[1] / rate[0], rate[2] / rate[0], Pass(c, config, window, false).bytes});
  }
  console.progress_end();
  const Row &half = rows[1], &longest = rows[2];
  const auto growth = [&](auto Row::*of) { return static_cast<double>(longest.*of) / static_cast<double>(half.*of); };

  const bench::AttentionCase c = problem(s.max_len);
  const Pass shared(c, config, window, false), repeated(c, config, window, true);
  const double apart = std::max(compare("y", shared.y, repeated.y, {}, {}).max_abs, compare("dk", shared.dk, repeated.dk, {}, {}).max_abs);

  if (console.json()) {
    nlohmann::ordered_json out = {{"preset", s.size}, {"heads", H}, {"kv_heads", K}, {"head_dim", Dh}, {"window", window}, {"batch", s.batch}};
    for (const Row& r : rows)
      out["lengths"].push_back({{"tokens", r.tokens}, {"forward_s", r.forward_s}, {"backward_s", r.backward_s},
                                {"forward_share_of_fma", r.forward_share}, {"backward_share_of_fma", r.backward_share}, {"peak_bytes", r.bytes}});
    out["growth"] = {{"forward", growth(&Row::forward_s)}, {"backward", growth(&Row::backward_s)}, {"memory", growth(&Row::bytes)}};
    out["repeated_heads"] = {{"peak_bytes", repeated.bytes}, {"shared_peak_bytes", shared.bytes}, {"largest_difference", apart}};
    console.line("{}", out.dump(2));
    return 0;
  }
  console.line("{}: {} query and {} key heads of {}, {}, {} row{}, {}", s.size, H, K, Dh, window > 0 ? fmt::format("a window of {}", window) : "no window",
               s.batch, s.batch > 1 ? "s" : "", where_timed(Device::cpu));
  console.line("{:>8} {:>18} {:>18} {:>16}", "tokens", "forward", "backward", "memory");
  for (const Row& r : rows)
    console.line("{:>8} {:>9.2f} ms {:>4.0f}% {:>9.2f} ms {:>4.0f}% {:>16}", grouped(static_cast<uint64_t>(r.tokens)), 1e3 * r.forward_s, 100 * r.forward_share,
                 1e3 * r.backward_s, 100 * r.backward_share, human_bytes(r.bytes));
  console.line("twice as long    forward x {:.2f}, backward x {:.2f}, memory x {:.2f}", growth(&Row::forward_s), growth(&Row::backward_s), growth(&Row::bytes));
  console.line("keys and values repeated for every query head: {} instead of {}, results at most {:.1e} apart", human_bytes(repeated.bytes),
               human_bytes(shared.bytes), apart);
  return 0;
}

}  // namespace

Command bench_attn_command() {
  return command<Settings>("bench attn", "Time attention at growing lengths; how its time and memory grow, and what shared key heads save",
                           "Shares are of fused multiply-adds, over the pairs that are visible. Memory is that of a pass and its gradients.\n"
                           "  facet bench attn --window 512 --max-len 16384\n  facet bench attn --preset gemma3-4b --window 0",
                           run);
}

}  // namespace facet::app
