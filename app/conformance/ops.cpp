// Every contract of an operation, on the GPU against the CPU; and how near those that only move numbers come to a copy.
#include "app/conformance/conformance.h"
#include "bench/support/op_cases.h"
#include "bench/support/race.h"
#include "tensor/gpu/runtime.h"
#include "tests/contracts/device.h"

namespace facet::app {

void conform_ops(Conformance& c) {
  c.begin("ops");
  const test::DeviceOptions options{.most_elements = c.tiny ? 2000 : 0};
  for (const test::Contract& contract : test::contracts()) {
    c.console.status(fmt::format("  {} ...", contract.name));
    const test::DeviceResult r = test::run_on_device(contract, options);
    Finding f{"ops", r.name, Verdict::passed, fmt::format("{} comparisons, the worst at {:.3f} of its limit", r.ran, r.worst), {}, r.seconds};
    if (r.left_out > 0) f.detail += fmt::format(", {} too large for the emulator", r.left_out);
    f.figures = {{"comparisons", r.ran}, {"worst_share_of_limit", r.worst}};
    if (!r.failures.empty()) {
      f.verdict = Verdict::failed;
      f.detail = fmt::format("{} of them: {}", r.failures.size(), r.failures.front());
    }
    c.add(std::move(f));
  }
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
