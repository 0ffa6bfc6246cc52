// Every contract of an operation, in awkward sizes and in those of models, on the GPU against the CPU; and how near those that only move numbers come
// to a copy.
#include "app/conformance/conformance.h"
#include "bench/support/op_cases.h"
#include "bench/support/race.h"
#include "models/gemma/config.h"
#include "tensor/gpu/runtime.h"
#include "tensor/gpu/wrapper_check.h"
#include "tests/contracts/device.h"
#include "tests/contracts/sizes.h"

namespace facet::app {

namespace {

void check(Conformance& c, const test::Contract& contract, const test::DeviceOptions& options) {
  c.check(contract.name, [&] {
    const test::DeviceResult r = test::run_on_device(contract, options);
    Outcome o{r.failures.empty(), fmt::format("{} comparisons, the worst at {:.3f} of its limit", r.ran, r.worst),
              {{"comparisons", r.ran}, {"worst_share_of_limit", r.worst}}};
    if (r.left_out > 0) o.detail += fmt::format(", {} too large for the emulator", r.left_out);
    if (!o.ok) o.detail = fmt::format("{} of them: {}", r.failures.size(), r.failures.front());
    return o;
  });
}

test::Sizes sizes_of(const std::string& name, int64_t tokens) {
  const GemmaConfig g = preset("gemma3-" + name);
  return {name, tokens, g.width, g.hidden, g.heads, g.kv_heads, g.head_dim, g.vocab, g.window};
}

// Beside Gemma's heads of 256, those that other tiles are for.
test::Sizes heads_of(int64_t head_dim, int64_t heads, int64_t kv_heads, int64_t tokens, int64_t window) {
  return {fmt::format("heads of {}", head_dim), tokens, 0, 0, heads, kv_heads, head_dim, 0, window};
}

}  // namespace

void conform_ops(Conformance& c) {
  c.begin("ops");
  // First what all kernels stand on.
  for (const gpu::WrapperResult& w : gpu::check_wrappers(c.seed, c.tiny ? 20 : 1000))
    c.check(w.name, [&] {
      return Outcome{w.wrong == 0, w.wrong ? fmt::format("{} of {} wrong; {}", w.wrong, w.compared, w.first) : fmt::format("{} results", w.compared),
                     {{"compared", static_cast<double>(w.compared)}, {"wrong", static_cast<double>(w.wrong)}}};
    });
  for (const test::Contract& contract : test::contracts()) check(c, contract, {.most_elements = c.tiny ? 2000 : 0});
  std::vector<test::Contracts> sized;
  if (c.tiny) {
    sized = {test::contracts_at({"tiny", 20, 40, 56, 4, 1, 16, 300, 7}), test::attention_at(heads_of(64, 2, 1, 12, 5))};
  } else {
    // More tokens than a window holds.
    sized = {test::contracts_at(sizes_of("270m", 1100)), test::contracts_at(sizes_of("1b", 1100)), test::attention_at(heads_of(128, 8, 2, 1100, 512)),
             test::attention_at(heads_of(64, 4, 4, 1100, 300))};
  }
  for (const test::Contracts& list : sized)
    for (const test::Contract& contract : list) check(c, contract, {});
  conform_libraries(c);
}

void time_moves(Conformance& c, const Probe& limit) {
  for (const DType dtype : {DType::bf16, DType::f32})
    for (const auto& [name, make] : bench::moving_cases(c.tiny ? 8 : 16'384, c.tiny ? 32 : 1152, dtype, Device::gpu))
      c.measure(fmt::format("{}, {}", name, name_of(dtype)), [&, make = make] {
        const bench::OpCase op = make();
        const double rate = op.bytes / bench::device_seconds(op.run, c.tiny ? 0 : 0.05);
        Outcome o{true, fmt::format("{:.2f} TB/s both ways, {:.0f}% of the copy's, {}", rate / 1e12, 100 * rate / limit.bytes_per_s, op.shape),
                  {{"bytes_per_s", rate}, {"share_of_probe", rate / limit.bytes_per_s}}};
        if (has_bounds(c)) weigh(o, "bytes_per_s", {3.0e12, 3.5e12});
        return o;
      });
}

}  // namespace facet::app
