// Words and environment as assignments. Values arrive untouched, whatever they look like: a prompt may be empty, start with a
// bracket or hold commas. (CLI11 2.1 reads "[a]" as a list and gives `--system= x` the next word, hence not it.)
#include <cctype>
#include <cstdlib>

#include "app/options.h"
#include "tensor/error.h"

namespace facet::app {

std::vector<Assignment> read_command_line(const Options& options, const Values& args) {
  std::vector<Assignment> out;
  Values loose;  // words without a flag
  const auto put = [&](const Option& o, const std::string& where, const std::string& value) {
    for (Assignment& a : out)
      if (a.key == o.name) return void(a.values.push_back(value));
    out.push_back({o.name, {value}, where, Layer::flag});
  };
  std::pair<std::string, std::string> behind_bare;  // a word that the flag before it did not take, and what that flag takes
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& word = args[i];
    if (word == "--") {
      loose.insert(loose.end(), args.begin() + i + 1, args.end());
      break;
    }
    const bool number = word.size() > 1 && (std::isdigit(static_cast<unsigned char>(word[1])) || word[1] == '.');
    if (word.size() < 2 || word[0] != '-' || number) {  // "-" is a value: standard input
      loose.push_back(word);
      continue;
    }
    const Option* option = nullptr;
    std::string shown, value;
    bool has_value = false, off = false;
    if (word[1] == '-') {
      const size_t equals = word.find('=');
      const std::string name = kebab(word.substr(2, equals == std::string::npos ? equals : equals - 2));
      shown = "--" + name;
      has_value = equals != std::string::npos;
      if (has_value) value = word.substr(equals + 1);
      option = options.find(name);
      if (!option && name.rfind("no-", 0) == 0) {
        option = options.find(name.substr(3));
        off = option && option->is_flag() && !has_value;
        if (!off) option = nullptr;
      }
      if (!option) fail(Kind::usage, "{} unknown{}", shown, options.nearest(name, "--"));
    } else {
      for (const Option& o : options.list())
        if (o.letter() == word[1]) option = &o;
      if (option && option->is_flag() && word.size() > 2) option = nullptr;
      if (!option) fail(Kind::usage, "{} unknown{}", word, options.nearest(word.substr(1), "--"));
      shown = word.substr(0, 2);
      has_value = word.size() > 2;
      if (has_value) value = word.substr(word[2] == '=' ? 3 : 2);
    }
    if (option->is_flag() && !has_value) {
      value = off ? "false" : "true";
    } else if (const std::string* bare = has_value ? nullptr : option->bare(i + 1 < args.size() ? &args[i + 1] : nullptr)) {
      value = *bare;
      if (i + 1 < args.size() && !args[i + 1].starts_with("-")) behind_bare = {args[i + 1], fmt::format(" ({} takes {})", shown, option->metavar())};
    } else if (!has_value) {
      if (i + 1 == args.size()) fail(Kind::usage, "{} needs a value ({})", shown, option->metavar());
      value = args[++i];
    }
    put(*option, shown, value);
  }

  size_t used = 0;  // positionals take what their flags left over, in declaration order
  for (const Option& o : options.list()) {
    if (!o.is_positional()) continue;
    bool taken = false;
    for (const Assignment& a : out) taken = taken || a.key == o.name;
    while (!taken && used < loose.size()) {
      put(o, "--" + o.name, loose[used++]);
      taken = !o.is_list();
    }
  }
  if (used < loose.size())
    fail(Kind::usage, "unexpected argument \"{}\"{}; see facet {} --help", loose[used], loose[used] == behind_bare.first ? behind_bare.second : "",
         options.command());
  return out;
}

std::vector<Assignment> read_environment(const Options& options) {
  std::vector<Assignment> out;
  for (const Option& o : options.list())
    if (const char* value = std::getenv(o.env().c_str()); value && *value && o.name != "help")
      out.push_back({o.name, {value}, o.env(), Layer::environment});
  return out;
}

Assignment read_set(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == 0 || equals == std::string::npos) fail(Kind::usage, "--set: \"{}\" is not of the form key=value", text);
  const std::string key = text.substr(0, equals);
  return {key, {text.substr(equals + 1)}, "--set " + key, Layer::flag};
}

}  // namespace facet::app
