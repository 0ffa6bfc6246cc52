#include "app/check/checks.h"
#include "tests/contracts/device.h"

namespace facet::app {
namespace {

// In f64: values against the slow twin's, gradients against central differences.
std::vector<std::string> errors_on_cpu(const test::Contract& c) {
  std::vector<std::string> errors;
  for (int s = 0; s < c.samples; ++s) {
    const test::Sample sample = test::make_sample(c, s);
    if (c.differentiable)
      for (const std::string& e : test::gradient_errors(sample.what, c.fused, sample.inputs, c.gradcheck)) errors.push_back(e);
    if (!c.composite) continue;
    const NoGrad off;
    const test::Tensors got = c.fused(sample.inputs), want = c.composite(sample.inputs);
    for (size_t k = 0; k < want.size(); ++k)
      if (const test::Comparison same = test::close(got[k], want[k], c.f64_rtol, c.f64_rtol); !same)
        errors.push_back(fmt::format("{}: output {}: {}", sample.what, k, same.message));
  }
  return errors;
}

}  // namespace

void check_ops(Device device, CheckReport& report) {
  for (const test::Contract& c : test::contracts()) {
    if (!report.wanted(c.name)) continue;
    CheckRow row;
    row.name = c.name;
    std::vector<std::string> errors;
    if (device == Device::gpu) {
      const test::DeviceResult r = test::run_on_device(c);
      errors = r.failures;
      row.note = fmt::format("{} comparisons with the CPU, the worst at {:.3f} of its limit", r.ran, r.worst);
    } else {
      errors = errors_on_cpu(c);
      row.note = fmt::format("{} samples in f64{}{}", c.samples, c.composite ? ", values against a slow twin" : "",
                             c.differentiable ? ", gradients against central differences" : "");
    }
    row.ok = errors.empty();
    if (!row.ok) row.note = fmt::format("{} wrong: {}", errors.size(), errors.front());
    report.add(row);
  }
}

}  // namespace facet::app
