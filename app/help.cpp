#include <algorithm>

#include "app/options.h"

#include <fmt/format.h>

namespace facet::app {
namespace {

// Words of `text` in lines of at most `width`, the following ones indented.
std::string wrapped(const std::string& text, size_t indent, size_t width) {
  std::string out;
  size_t column = indent;
  for (size_t i = 0; i < text.size();) {
    const size_t end = std::min(text.find(' ', i), text.size());
    if (column + (end - i) > width && column > indent) {
      out += "\n" + std::string(indent, ' ');
      column = indent;
    } else if (i) {
      out += ' ';
      ++column;
    }
    out += text.substr(i, end - i);
    column += end - i;
    i = end + 1;
  }
  return out;
}

std::string row(const Option& o, bool with_aliases) {
  std::string left = o.letter() ? fmt::format("  -{}, --{}", o.letter(), o.name) : fmt::format("      --{}", o.name);
  if (!o.is_flag()) left += " " + o.metavar();
  std::string right = o.help;
  if (o.is_required()) right += " (required)";
  else if (!o.fallback().empty() && !o.is_flag() && !fmt::format("{}", fmt::join(o.fallback(), "")).empty())
    right += fmt::format(" [{}]", fmt::join(o.fallback(), ","));
  else if (o.is_flag() && o.fallback()[0] == "true") right += fmt::format(" [on; --no-{}]", o.name);
  if (with_aliases && !o.aliases().empty()) right += fmt::format(" (also --{})", fmt::join(o.aliases(), ", --"));
  constexpr size_t column = 30;
  left += left.size() + 2 > column ? "\n" + std::string(column, ' ') : std::string(column - left.size(), ' ');
  return left + wrapped(right, column, 110) + "\n";
}

}  // namespace

std::string Options::help(const std::string& summary, const std::string& details, bool with_aliases) const {
  std::string usage = "usage: facet " + command_, body;
  for (const Option& o : list_)
    if (o.is_positional()) {
      const std::string word = o.metavar() + (o.is_list() ? "..." : "");
      usage += o.is_required() ? " " + word : " [" + word + "]";
    }
  const auto group = [&](const std::string& title, const std::string& section, size_t begin, size_t end) {
    std::string rows;
    for (size_t i = begin; i < std::min(end, list_.size()); ++i)
      if (list_[i].section == section) rows += row(list_[i], with_aliases);
    if (!rows.empty()) body += "\n" + title + ":\n" + rows;
  };
  group("options", "", 0, common_);
  for (const std::string& s : sections_) group(s, s, 0, list_.size());
  group("all commands", "", common_, list_.size());
  return fmt::format(
      "{} [options]\n\n{}\n{}{}\n"
      "Every option can also stand in a --config file (YAML, same names, sections only group) or in the environment\n"
      "(FACET_SEED for --seed). Flags win over the environment, it over the file, that over presets and defaults.{}\n",
      usage, wrapped(summary + ".", 0, 110), details.empty() ? "" : "\n" + details + "\n", body,
      with_aliases ? "" : "\n--help -v also lists the names other trainers use.");
}

}  // namespace facet::app
