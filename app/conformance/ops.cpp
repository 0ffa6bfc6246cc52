// Every contract of an operation, on the GPU against the CPU.
#include "app/conformance/conformance.h"
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

}  // namespace facet::app
