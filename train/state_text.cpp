#include "train/state_text.h"

#include <charconv>
#include <cstdlib>

#include "tensor/io/text.h"

namespace facet {

std::string exact_text(std::span<const double> list) {
  std::string text;
  for (const double x : list) text += fmt::format("{}{:a}", text.empty() ? "" : ",", x);
  return text;
}

const std::string& StateText::at(const std::string& name) const {
  const auto i = found_.state.find(prefix_ + name);
  if (i == found_.state.end())
    fail(Kind::file, "{}: the state lacks \"{}{}\"; was this run started by another trainer, or an older one?", found_.path, prefix_, name);
  return i->second;
}

void StateText::bad(const std::string& name, const char* expected) const {
  fail(Kind::file, "{}: the state's \"{}{}\" is \"{}\", expected {}", found_.path, prefix_, name, printable(at(name), 60), expected);
}

int64_t StateText::count(const std::string& name) const {
  const std::string& text = at(name);
  int64_t n = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (error != std::errc{} || end != text.data() + text.size() || n < -1) bad(name, "a count");
  return n;
}

double StateText::number(const std::string& name) const {
  const auto list = numbers(name);
  if (list.size() != 1) bad(name, "a number");
  return list[0];
}

std::vector<double> StateText::numbers(const std::string& name) const {
  std::vector<double> list;
  const std::string& text = at(name);
  for (const char* p = text.c_str(); *p;) {
    char* end = nullptr;
    list.push_back(std::strtod(p, &end));
    if (end == p || (*end && *end != ',') || (*end && !end[1])) bad(name, "numbers");
    p = *end ? end + 1 : end;
  }
  return list;
}

}  // namespace facet
