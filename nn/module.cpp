#include "nn/module.h"

#include <algorithm>
#include <charconv>

namespace facet {

void Visitor::operator()(const std::string& name, Module& m) {
  const std::string before = path_;
  enter(before + name, m);
  path_ = name.empty() ? before : before + name + ".";
  m.visit(*this);
  path_ = before;
  leave(before + name, m);
}

namespace {

struct Collect : Visitor {
  std::vector<Parameter*> list;
  void parameter(const std::string& path, Parameter& p) override {
    if (std::find(list.begin(), list.end(), &p) != list.end()) return;
    p.name = path;
    list.push_back(&p);
  }
};

struct Print : Visitor {
  std::string text;
  int depth = 0;
  void line(const std::string& path, const std::string& what) {
    const size_t dot = path.rfind('.');
    // "layers.3" keeps its index: the last part alone would be a bare number.
    size_t from = dot == std::string::npos ? 0 : dot + 1;
    if (from && from < path.size() && std::isdigit(static_cast<unsigned char>(path[from]))) {
      const size_t previous = path.rfind('.', dot - 1);
      from = previous == std::string::npos ? 0 : previous + 1;
    }
    text += fmt::format("{:{}}{}{}{}\n", "", 2 * depth, path.substr(from), what.empty() ? "" : "  ", what);
  }
  void parameter(const std::string& path, Parameter& p) override {
    line(path, fmt::format("{}{}{}", name_of(p.value().dtype()), to_string(p.value().shape()), p.trains() ? "" : "  frozen"));
  }
  void enter(const std::string& path, Module& m) override {
    std::string what = m.describe();
    const int64_t n = count_parameters(m);
    what += fmt::format("{}{} parameters", what.empty() ? "" : ", ", n);
    line(path.empty() ? "model" : path, what);
    ++depth;
  }
  void leave(const std::string&, Module&) override { --depth; }
};

}  // namespace

std::vector<Parameter*> parameters(Module& m) {
  Collect c;
  c("", m);
  return std::move(c.list);
}

std::vector<std::pair<std::string, Tensor>> named_values(Module& m, bool only_training) {
  std::vector<std::pair<std::string, Tensor>> r;
  for (Parameter* p : parameters(m))
    if (!only_training || p->trains()) r.emplace_back(p->name, p->value().detach());
  return r;
}

int64_t count_parameters(Module& m, bool only_training) {
  struct Count : Visitor {
    std::vector<const Parameter*> seen;
    int64_t n = 0;
    bool only;
    explicit Count(bool o) : only(o) {}
    void parameter(const std::string&, Parameter& p) override {
      if (std::find(seen.begin(), seen.end(), &p) != seen.end()) return;
      seen.push_back(&p);
      if (!only || p.trains()) n += p.value().numel();
    }
  } count(only_training);
  count("", m);
  return count.n;
}

bool matches(const std::string& pattern, const std::string& name) {
  // Greedy matching with one point to come back to: linear in practice, never exponential.
  size_t p = 0, n = 0, star = std::string::npos, mark = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      mark = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p;
      ++n;
    } else if (star != std::string::npos) {
      p = star + 1;
      n = ++mark;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

namespace {
// "layers.-1.mlp" with the number that stands for: one more than the largest that follows "layers.", less 1.
std::string counted_from_the_end(const std::string& pattern, const std::vector<Parameter*>& all) {
  const size_t dash = pattern.find(".-");
  if (dash == std::string::npos) return pattern;
  const std::string before = pattern.substr(0, dash + 1);
  const char* const digits = pattern.c_str() + dash + 2;
  int64_t back = 0, last = -1;
  const auto end = std::from_chars(digits, pattern.c_str() + pattern.size(), back).ptr;
  for (const Parameter* p : all) {
    int64_t number = -1;
    if (p->name.starts_with(before)) std::from_chars(p->name.c_str() + before.size(), p->name.c_str() + p->name.size(), number);
    last = std::max(last, number);
  }
  if (end == digits || (*end != '.' && *end != 0) || back < 1 || back > last + 1) return pattern;  // names nothing
  return before + std::to_string(last + 1 - back) + end;
}
}  // namespace

int set_trains(Module& m, const std::string& given, bool on) {
  int hits = 0;
  const std::vector<Parameter*> all = parameters(m);
  const std::string pattern = counted_from_the_end(given, all);
  for (Parameter* p : all) {
    if (!matches(pattern, p->name) && !matches(pattern + ".*", p->name)) continue;
    p->set_trains(on);
    ++hits;
  }
  return hits;
}

std::string to_string(Module& m) {
  Print p;
  p("", m);
  return p.text;
}

}  // namespace facet
