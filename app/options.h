// One declaration per setting, every view from it: the flag and its help line, the key of the config file, the environment
// variable, precedence, checks, and the resolved config that a run writes and can be started from again.
//
//   struct Settings : Common {
//     double lr = 3e-4;
//     void declare(Options& o) {
//       o.section("train");
//       o.add("lr", &lr, "peak learning rate").range(0, 10).alias({"learning-rate"});
//     }
//   };
//
//   --lr 1e-3   --learning_rate=1e-3   --set train.lr=1e-3   FACET_LR=1e-3   train: {lr: 1e-3}   lr: 1e-3
//
// Precedence: defaults < preset < file < environment < flag. All complaints are Error(Kind::usage).
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace facet::app {

using Values = std::vector<std::string>;

/// Where a value came from, weakest first.
enum class Layer { fallback, preset, file, environment, flag };

/// A value on its way to an option. `where` is how a complaint names it: "--lr", "FACET_LR", "run.yaml:3: train.lr".
struct Assignment {
  std::string key;  ///< option name, or "section.name"
  Values values;    ///< empty: null in a file, i.e. leave the default
  std::string where;
  Layer layer;
};

class Option {
 public:
  /// What a setting can be; an absent optional means "decided later", see the help text.
  using Field = std::variant<bool*, int*, int64_t*, double*, std::string*, Values*, std::optional<int64_t>*,
                             std::optional<double>*, std::optional<std::string>*>;

  Option(std::string name, Field field, std::string help, std::string section)
      : name(std::move(name)), help(std::move(help)), section(std::move(section)), field_(field), fallback_(show()) {}

  // ---- said once at the declaration
  Option& alias(std::initializer_list<const char*> names);  ///< other spellings, e.g. those of other trainers
  Option& letter(char c) { return letter_ = c, *this; }     ///< -n
  Option& positional() { return positional_ = true, *this; } ///< may also stand without a flag, in declaration order
  Option& required() { return required_ = true, *this; }
  Option& choices(Values allowed) { return choices_ = std::move(allowed), *this; }
  Option& range(double low, double high) { return range_ = {low, high}, *this; }
  Option& metavar(std::string word) { return metavar_ = std::move(word), *this; }  ///< stands for the value in the help
  Option& verbatim() { return verbatim_ = true, *this; }    ///< a list whose items may hold commas: repeat the flag instead
  /// --mask without a value means this. The next word is its value when it is one of the choices; without choices, when it is no flag
  /// (so not for commands with values that stand without a flag).
  Option& bare(std::string value) { return bare_ = std::move(value), *this; }
  Option& transient() { return transient_ = true, *this; }  ///< about this call only: not in the resolved config
  Option& call_only() { return transient().call_only_ = true, *this; }  ///< and never from a file
  /// f(value) returns a complaint ("must be a power of two") or "".
  Option& check(std::function<std::string(const std::string&)> f) { return check_ = std::move(f), *this; }

  // ---- used by the views
  void assign(const Assignment&);
  Values show() const;  ///< the value as text; empty for an absent optional or an empty list
  const Values& fallback() const { return fallback_; }
  std::string metavar() const;
  std::string env() const;  ///< FACET_LORA_RANK
  bool is_flag() const { return std::holds_alternative<bool*>(field_); }
  bool is_list() const { return std::holds_alternative<Values*>(field_); }
  bool is_positional() const { return positional_; }
  bool is_required() const { return required_; }
  bool is_transient() const { return transient_; }
  bool is_call_only() const { return call_only_; }
  bool is_verbatim() const { return verbatim_; }
  bool answers_to(const std::string& n) const;
  /// The value that the flag alone stands for when `next` (null at the end) is not one of the choices; null when it needs one.
  const std::string* bare(const std::string* next) const;
  char letter() const { return letter_; }
  const Values& aliases() const { return aliases_; }
  const Values& choices() const { return choices_; }
  Layer layer() const { return layer_; }
  bool given() const { return layer_ > Layer::preset; }

  const std::string name, help, section;

 private:
  Field field_;
  Values fallback_, aliases_, choices_;
  std::optional<std::pair<double, double>> range_;
  std::string metavar_, bare_;
  std::function<std::string(const std::string&)> check_;
  char letter_ = 0;
  bool positional_ = false, required_ = false, verbatim_ = false, transient_ = false, call_only_ = false;
  Layer layer_ = Layer::fallback;
};

class Options {
 public:
  explicit Options(std::string command) : command_(std::move(command)) {}

  // ---- declaring
  void section(std::string name);  ///< group of the options that follow: heading of the help, optional map in a file
  Option& add(std::string name, Option::Field field, std::string help);
  void begin_common() { section(""), common_ = list_.size(); }  ///< what follows is the same for all commands: last in the help
  /// Keys "prefix.*" are collected untouched, e.g. model.sliding_window for whoever builds the model.
  void pass_through(std::string prefix, std::map<std::string, std::string>& into);
  /// Values behind --preset NAME, which this adds.
  void preset(std::string name, std::vector<std::pair<std::string, std::string>> values);
  /// Called when all layers are in; returns a complaint about options that contradict each other, or "".
  void rule(std::function<std::string()> f) { rules_.push_back(std::move(f)); }

  // ---- resolving
  /// Fills the fields from preset, --config file, environment and flags. With --help nothing but flags is looked at.
  void resolve(const Values& args);
  /// As resolve() for one value; throws naming the nearest key when there is none of that name.
  void assign(const Assignment&);
  bool given(const std::string& name) const;  ///< set by file, environment or flag

  // ---- views
  const std::string& command() const { return command_; }
  std::string typed() const;  ///< "facet sft --model 'my model' ...": what resolve() was given, for a shell
  const std::deque<Option>& list() const { return list_; }
  const Option* find(const std::string& name) const;  ///< by name or alias, `_` for `-`; null when unknown
  std::string help(const std::string& summary, const std::string& details, bool with_aliases) const;
  std::string dump() const;  ///< YAML, all layers resolved; read_config() takes it back
  /// " did you mean --lora-rank?" or a pointer to the help; `prefix` is "--", "FACET_" or "".
  std::string nearest(const std::string& name, const std::string& prefix) const;

 private:
  Option* find(const std::string& name);
  bool has_section(const std::string& name) const;

  std::string command_, section_;
  Values typed_;
  size_t common_ = SIZE_MAX;
  std::deque<Option> list_;  // a deque, because add() hands out references
  std::vector<std::string> sections_;
  std::map<std::string, std::map<std::string, std::string>*> passed_;
  std::map<std::string, std::vector<std::pair<std::string, std::string>>> presets_;
  std::string preset_;
  std::vector<std::function<std::string()>> rules_;
};

// ---- the layers as lists of assignments, not yet looked at
std::vector<Assignment> read_command_line(const Options&, const Values& args);
std::vector<Assignment> read_environment(const Options&);
std::vector<Assignment> read_config(const std::string& path);
Assignment read_set(const std::string& key_equals_value);

/// "lora_rank" -> "lora-rank"
std::string kebab(std::string);

}  // namespace facet::app
