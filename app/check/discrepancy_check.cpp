#include <map>

#include "app/check/checks.h"
#include "autograd/tape.h"
#include "models/gemma/twin.h"

namespace facet::app {

void check_discrepancies(Gemma& model, const Reference& reference, const CheckTolerances& tolerance, CheckReport& report) {
  const NamedTensors weights = named_values(model);
  const Tolerance allowed{.of_rms = tolerance.taps, .of_max = 0, .absolute = tolerance.absolute};
  for (const std::string& set : reference.sets()) {
    const Tokens tokens = reference.tokens(set);
    const Tensor mask = reference.mask(set);
    const std::string prefix = set.empty() ? "" : set + ".";
    const Tensor want = reference.find(set, "logits");
    if (!want) {
      report.not_compared(prefix + "logits", "not in the reference");
      continue;
    }
    const auto run = [&](const Discrepancy* d, bool other) {
      GemmaTwin twin(model.config, weights, d ? d->dtype : DType::f64);
      if (d && other) d->apply(twin.config, twin.choices);
      else if (d && d->compare_with) d->compare_with(twin.choices);
      return twin.logits(tokens);
    };
    {
      const NoGrad off;
      report.add(compare(prefix + "logits", model.logits(model.hidden(tokens)).to(Device::cpu), want, mask, allowed));
    }
    report.add(compare(prefix + "twin", run(nullptr, false), want, mask, allowed));
    for (const Discrepancy& d : discrepancies()) {
      const std::string name = prefix + d.name;
      if (!d.concerns(model.config) || !(report.wanted(d.name) || report.wanted(name))) continue;
      const bool mistake = d.kind == Discrepancy::Kind::mistake;
      CheckRow row = compare(name, run(&d, true), mistake ? want : run(&d, false), mask, allowed);
      row.ok = !mistake || !row.ok;  // the reference must tell a mistake apart; rounding is only measured
      const char* verdict = !mistake ? "rounding" : row.ok ? "told apart" : "not told apart by this reference";
      row.note = fmt::format("moves logits by {:.1e}, {} of {} differ: {} ({})", row.max_abs, row.differ, row.elements, verdict, d.what);
      report.add(row);
    }
  }
}

}  // namespace facet::app
