#include "app/conformance/conformance.h"

#include <algorithm>
#include <chrono>
#include <exception>

#include "tensor/error.h"
#include "tensor/gpu/runtime.h"

namespace facet::app {

const char* name_of(Verdict v) {
  switch (v) {
    case Verdict::passed: return "ok";
    case Verdict::failed: return "FAILED";
    default: return "measured";
  }
}

void weigh(Outcome& o, const std::string& figure, const Bound& b) {
  const auto at = std::find_if(o.figures.begin(), o.figures.end(), [&](const auto& f) { return f.first == figure; });
  if (at == o.figures.end()) fail(Kind::usage, "conformance: no figure is called {}", figure);
  const double value = at->second;
  const auto holds = [&](double bound) { return b.most ? value <= bound : value >= bound; };
  o.detail += fmt::format("; {} {}: {:.3g}, accepted {:.3g}, goal {:.3g}", figure,
                          holds(b.goal) ? "reaches its goal" : holds(b.accepted) ? "is accepted" : "FALLS SHORT", value, b.accepted, b.goal);
  o.figures.emplace_back(figure + "_accepted", b.accepted);
  o.figures.emplace_back(figure + "_goal", b.goal);
}

bool has_bounds(const Conformance& c) {
  const gpu::DeviceInfo& d = gpu::device();
  return !c.tiny && d.name.find(" H200") != std::string::npos && d.processors == 132;  // whole, and no Grace Hopper ("GH200")
}

void Conformance::begin(const std::string& section) {
  section_ = section;
  console.note("{}", section);
}

void Conformance::add(Finding f) {
  console.progress_end();
  if (f.section.empty()) f.section = section_;
  console.note("  {:<44} {:<8} {:>6.1f} s  {}", f.name, f.verdict == Verdict::measured ? "" : name_of(f.verdict), f.seconds, f.detail);
  findings_.push_back(std::move(f));
}

void Conformance::check(const std::string& name, const std::function<Outcome()>& f) { run(name, f, Verdict::passed); }
void Conformance::measure(const std::string& name, const std::function<Outcome()>& f) { run(name, f, Verdict::measured); }

void Conformance::run(const std::string& name, const std::function<Outcome()>& f, Verdict good) {
  Finding found{section_, name, good, "", {}, 0};
  const auto begin = std::chrono::steady_clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  console.status(fmt::format("  {} ...", name));
  std::exception_ptr end;
  try {
    Outcome o = f();
    if (!o.ok) found.verdict = Verdict::failed;
    found.detail = std::move(o.detail);
    found.figures = std::move(o.figures);
  } catch (const std::exception& e) {
    found.detail = e.what();
    found.verdict = Verdict::failed;
    if (device_is_lost()) end = std::current_exception();
  }
  found.seconds = seconds();
  add(std::move(found));
  if (end) std::rethrow_exception(end);
}

bool device_is_lost() {
  try {
    gpu::synchronize();
    return false;
  } catch (const Error&) {
    return true;
  }
}

int64_t Conformance::count(Verdict v) const {
  return std::count_if(findings_.begin(), findings_.end(), [v](const Finding& f) { return f.verdict == v; });
}

}  // namespace facet::app
