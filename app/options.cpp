#include "app/options.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>

#include "tensor/error.h"
#include "tensor/io/text.h"

namespace facet::app {
namespace {

template <class T>
struct Holds {
  using type = T;
  static constexpr bool optional = false;
};
template <class T>
struct Holds<std::optional<T>> {
  using type = T;
  static constexpr bool optional = true;
};

[[noreturn]] void reject(const Assignment& a, const std::string& value, const std::string& why) {
  fail(Kind::usage, "{}: \"{}\" {}", a.where, value, why);
}

void parse(const Assignment&, const std::string& text, std::string& out) { out = text; }

void parse(const Assignment& a, const std::string& text, bool& out) {
  std::string t = text;
  for (char& c : t) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (t == "true" || t == "1" || t == "yes" || t == "on") out = true;
  else if (t == "false" || t == "0" || t == "no" || t == "off") out = false;
  else reject(a, text, "is neither true nor false");
}

void parse(const Assignment& a, const std::string& text, double& out) {
  const char* begin = text.data() + (text.size() > 1 && text[0] == '+');
  const auto [end, error] = std::from_chars(begin, text.data() + text.size(), out);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(out)) reject(a, text, "is not a number");
}

template <class Int>
void parse_int(const Assignment& a, const std::string& text, Int& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (error == std::errc() && end == text.data() + text.size()) return;
  if (error == std::errc::result_out_of_range) reject(a, text, "is too large");
  double d = 0;  // 1e6 and 500.0 are whole numbers, too
  parse(a, text, d);
  if (d != std::floor(d) || std::abs(d) > 1e9) reject(a, text, "is not a whole number");
  out = static_cast<Int>(d);
}
void parse(const Assignment& a, const std::string& text, int& out) { parse_int(a, text, out); }
void parse(const Assignment& a, const std::string& text, int64_t& out) { parse_int(a, text, out); }

std::string text_of(const std::string& s) { return s; }
std::string text_of(bool b) { return b ? "true" : "false"; }
template <class N>
std::string text_of(N n) {
  return fmt::format("{}", n);
}

Values split(const std::string& text) {
  Values out;
  for (size_t i = 0; i <= text.size();) {
    const size_t comma = std::min(text.find(',', i), text.size());
    if (comma > i) out.push_back(text.substr(i, comma - i));
    i = comma + 1;
  }
  return out;
}

}  // namespace

std::string kebab(std::string s) {
  std::replace(s.begin(), s.end(), '_', '-');
  return s;
}

// ---- Option

Option& Option::alias(std::initializer_list<const char*> names) {
  aliases_.insert(aliases_.end(), names.begin(), names.end());
  return *this;
}

bool Option::answers_to(const std::string& n) const {
  return n == name || std::find(aliases_.begin(), aliases_.end(), n) != aliases_.end();
}

const std::string* Option::bare(const std::string* next) const {
  const auto is_value = [&](const std::string& word) {
    return choices_.empty() ? !word.starts_with("-") : std::find(choices_.begin(), choices_.end(), word) != choices_.end();
  };
  if (bare_.empty() || (next && is_value(*next))) return nullptr;
  return &bare_;
}

std::string Option::env() const {
  std::string s = "FACET_" + name;
  for (char& c : s) c = c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return s;
}

std::string Option::metavar() const {
  if (!metavar_.empty()) return metavar_;
  if (!choices_.empty()) return fmt::format("{}", fmt::join(choices_, "/"));
  return std::visit(
      [](auto* f) -> std::string {
        using T = typename Holds<std::remove_reference_t<decltype(*f)>>::type;
        if constexpr (std::is_same_v<T, bool>) return "";
        else if constexpr (std::is_same_v<T, double>) return "X";
        else if constexpr (std::is_integral_v<T>) return "N";
        else if constexpr (std::is_same_v<T, Values>) return "A,B";
        else return "TEXT";
      },
      field_);
}

Values Option::show() const {
  return std::visit(
      [](auto* f) -> Values {
        using T = std::remove_reference_t<decltype(*f)>;
        if constexpr (std::is_same_v<T, Values>) return *f;
        else if constexpr (Holds<T>::optional) return *f ? Values{text_of(**f)} : Values{};
        else return {text_of(*f)};
      },
      field_);
}

void Option::assign(const Assignment& a) {
  if (call_only_ && a.layer == Layer::file) fail(Kind::usage, "{}: only a flag, not for a config file", a.where);
  if (a.values.empty() && !is_list()) return;
  if (a.values.size() > 1 && !is_list())
    fail(Kind::usage, "{}: given {} times or as a list; expected one value", a.where, a.values.size());
  Values values = a.values;
  // Flags and variables write a list with commas; a file has real lists.
  if (is_list() && !verbatim_ && (a.layer != Layer::file || values.size() == 1)) {
    values.clear();
    for (const std::string& v : a.values)
      for (std::string& part : split(v)) values.push_back(std::move(part));
  }
  for (const std::string& v : values) {
    if (!choices_.empty() && std::find(choices_.begin(), choices_.end(), v) == choices_.end()) {
      const std::string close = facet::nearest(v, choices_);
      reject(a, v, fmt::format("is none of {}{}", fmt::join(choices_, ", "), close.empty() ? "" : "; did you mean " + close + "?"));
    }
    if (check_)
      if (const std::string why = check_(v); !why.empty()) reject(a, v, why);
  }
  std::visit(
      [&](auto* f) {
        using T = typename Holds<std::remove_reference_t<decltype(*f)>>::type;
        if constexpr (std::is_same_v<T, Values>) {
          *f = values;
        } else {
          T parsed{};
          parse(a, values[0], parsed);
          if constexpr (std::is_arithmetic_v<T>)
            if (range_ && !(parsed >= range_->first && parsed <= range_->second))
              reject(a, values[0], fmt::format("is out of range {} to {}", range_->first, range_->second));
          *f = parsed;
        }
      },
      field_);
  layer_ = a.layer;
}

// ---- Options

void Options::section(std::string name) {
  if (!name.empty() && !has_section(name)) sections_.push_back(name);
  section_ = std::move(name);
}

bool Options::has_section(const std::string& name) const {
  return std::find(sections_.begin(), sections_.end(), name) != sections_.end();
}

Option& Options::add(std::string name, Option::Field field, std::string help) {
  if (find(name)) throw std::logic_error("option declared twice: " + name);
  return list_.emplace_back(std::move(name), field, std::move(help), section_);
}

void Options::pass_through(std::string prefix, std::map<std::string, std::string>& into) { passed_[std::move(prefix)] = &into; }

void Options::preset(std::string name, std::vector<std::pair<std::string, std::string>> values) {
  if (presets_.empty()) {
    // Transient: the resolved config holds the values themselves.
    add("preset", &preset_, "a named set of values to start from").metavar("NAME").transient().check([this](const std::string& v) {
      if (presets_.count(v)) return std::string();
      std::string names;
      for (const auto& [n, unused] : presets_) names += (names.empty() ? "" : ", ") + n;
      return "is none of " + names;
    });
  }
  presets_[std::move(name)] = std::move(values);
}

const Option* Options::find(const std::string& name) const { return const_cast<Options*>(this)->find(name); }

Option* Options::find(const std::string& name) {
  const std::string n = kebab(name);
  for (Option& o : list_)
    if (o.answers_to(n)) return &o;
  return nullptr;
}

bool Options::given(const std::string& name) const {
  const Option* o = find(name);
  return o && o->given();
}

std::string Options::nearest(const std::string& name, const std::string& prefix) const {
  std::vector<std::string> names;
  for (const Option& o : list_) {
    if (o.is_call_only() && prefix != "--") continue;
    names.push_back(o.name);
    names.insert(names.end(), o.aliases().begin(), o.aliases().end());
  }
  const std::string close = facet::nearest(kebab(name), names);
  if (close.empty()) return fmt::format("; see facet {} --help", command_);
  return fmt::format(", did you mean {}{}?", prefix, find(close)->name);
}

void Options::assign(const Assignment& a) {
  const size_t dot = a.key.find('.');
  if (dot == std::string::npos) {
    if (Option* o = find(a.key)) return o->assign(a);
    const std::string prefix = a.layer == Layer::flag && a.where.rfind("--set", 0) ? "--" : "";
    fail(Kind::usage, "{} unknown{}", a.where, nearest(a.key, prefix));
  }
  const std::string section = kebab(a.key.substr(0, dot)), key = a.key.substr(dot + 1);
  if (auto it = passed_.find(section); it != passed_.end()) {
    if (a.values.size() != 1) fail(Kind::usage, "{}: expected one value", a.where);
    (*it->second)[key] = a.values[0];
    return;
  }
  // lora.rank is lora-rank; train.lr is lr.
  if (Option* o = find(section + "-" + key)) return o->assign(a);
  if (!has_section(section)) {
    const std::string close = facet::nearest(section, sections_);
    fail(Kind::usage, "{}: section \"{}\" unknown{}", a.where, section,
         close.empty() ? "; see facet " + command_ + " --help" : ", did you mean \"" + close + "\"?");
  }
  if (Option* o = find(key)) return o->assign(a);
  fail(Kind::usage, "{} unknown{}", a.where, nearest(key, ""));
}

std::string Options::typed() const {
  std::string line = "facet " + command_;
  for (const std::string& word : typed_) {
    const bool plain = !word.empty() && word.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./,:@%") == std::string::npos;
    line += ' ';
    if (plain) {
      line += word;
      continue;
    }
    line += '\'';
    for (const char c : word) c == '\'' ? line += "'\\''" : line += c;
    line += '\'';
  }
  return line;
}

void Options::resolve(const Values& args) {
  typed_ = args;
  const std::vector<Assignment> flags = read_command_line(*this, args);
  const auto last = [](const std::vector<Assignment>& list, const std::string& key) -> const Assignment* {
    for (auto it = list.rbegin(); it != list.rend(); ++it)
      if (it->key == key && !it->values.empty()) return &*it;
    return nullptr;
  };
  if (last(flags, "help")) {
    for (const char* key : {"help", "verbose"})
      if (const Assignment* a = last(flags, key)) assign(*a);
    return;
  }
  const std::vector<Assignment> environment = read_environment(*this);
  std::vector<Assignment> file, sets;
  const Assignment* config = last(flags, "config");
  if (!config) config = last(environment, "config");
  if (config) file = read_config(config->values[0]);
  for (const Assignment& a : flags)
    if (a.key == "set")
      for (const std::string& v : a.values) sets.push_back(read_set(v));

  const std::vector<Assignment>* layers[] = {&file, &environment, &sets, &flags};
  if (!presets_.empty()) {
    for (const auto* layer : layers)
      if (const Assignment* a = last(*layer, "preset")) assign(*a);
    if (!preset_.empty())
      for (const auto& [key, value] : presets_.at(preset_)) assign({key, {value}, "preset " + preset_ + ": " + key, Layer::preset});
  }
  for (const auto* layer : layers)
    for (const Assignment& a : *layer) assign(a);

  for (const Option& o : list_)
    if (o.is_required() && !o.given())
      fail(Kind::usage, "--{} is missing{}; see facet {} --help", o.name, o.is_positional() ? " (it may stand without the flag)" : "",
           command_);
  for (const auto& rule : rules_)
    if (const std::string why = rule(); !why.empty()) fail(Kind::usage, "{}", why);
}

}  // namespace facet::app
