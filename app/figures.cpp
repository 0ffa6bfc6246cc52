#include "app/figures.h"

#include <fmt/format.h>

#include <algorithm>
#include <regex>
#include <sstream>

namespace facet::app {
namespace {

using Lines = std::vector<std::string>;

Lines lines_of(const std::string& text) {
  Lines lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

// The cells of "| a | b |", without the spaces and stars around them.
Lines cells_of(const std::string& row) {
  Lines cells;
  std::istringstream in(row.substr(1));
  for (std::string cell; std::getline(in, cell, '|');) {
    const size_t first = cell.find_first_not_of(" *"), last = cell.find_last_not_of(" *");
    cells.push_back(first == std::string::npos ? "" : cell.substr(first, last + 1 - first));
  }
  return cells;
}

bool is_number(const std::string& cell) {
  static const std::regex number(R"([-+~<]?[0-9][0-9.,:e+-]*k?([ ±%/x].*)?)");
  return std::regex_match(cell, number);
}

bool has_source(const std::string& text) {
  static const std::regex command(R"(`([A-Z_]+=\S+ )*(build/|facet |bench_|test_|tools/|bench/|ctest |job\.|ninja )|^```|predicted|Predicted)",
                                  std::regex::ECMAScript | std::regex::multiline);
  return std::regex_search(text, command);
}

bool tells_a_measure(std::string line) {
  line = std::regex_replace(line, std::regex("`[^`]*`"), "");  // an example of a setting or of output
  static const std::regex measure(R"((^|[^\w.])[0-9][0-9.,]*[kMG]? ?([kMGT]?(tokens|tok|B|FLOP|rows|steps)/s|[mu]s|seconds|minutes|[kMG]B|times as [a-z]+)([^\w]|$))");
  return std::regex_search(line, measure);
}

struct Section {
  size_t begin, end;  // lines
};

class Page {
 public:
  explicit Page(const std::string& text) : lines_(lines_of(text)), fenced_(lines_.size()) {
    bool inside = false;
    for (size_t i = 0; i < lines_.size(); ++i) {
      const bool fence = lines_[i].starts_with("```");
      fenced_[i] = inside || fence;
      if (fence) inside = !inside;
    }
  }

  std::vector<UnnamedFigure> look() {
    const bool all_named = opening_speaks_for_all();
    for (size_t begin = 0, end; begin < lines_.size(); begin = end) {
      for (end = begin + 1; end < lines_.size() && !is_heading(end);) ++end;
      look_at({begin, end}, all_named);
    }
    return found_;
  }

 private:
  bool is_heading(size_t i) const { return !fenced_[i] && lines_[i].starts_with("#"); }
  bool is_row(size_t i) const { return !fenced_[i] && lines_[i].starts_with("|"); }
  std::string text_of(Section s) const { return fmt::format("{}\n", fmt::join(lines_.begin() + static_cast<long>(s.begin), lines_.begin() + static_cast<long>(s.end), "\n")); }

  // "Every figure here is predicted", "The tables are written by `...`", before the first section.
  bool opening_speaks_for_all() const {
    static const std::regex about_all(R"((Every|All|The) (figure|number|table)s?\b)");
    std::string paragraph;
    for (size_t i = 1; i < lines_.size() && !is_heading(i); ++i) {
      paragraph += lines_[i] + "\n";
      if (!lines_[i].empty() && i + 1 < lines_.size() && !is_heading(i + 1)) continue;
      if (std::regex_search(paragraph, about_all) && has_source(paragraph)) return true;
      paragraph.clear();
    }
    return false;
  }

  void look_at(Section s, bool all_named) {
    const bool named = all_named || has_source(text_of(s));
    bool said = named;
    for (size_t i = s.begin; i < s.end; ++i) {
      if (!is_row(i)) {
        if (!said && !fenced_[i] && tells_a_measure(lines_[i])) add(i, "a measured figure"), said = true;
        continue;
      }
      size_t end = i;
      while (end < s.end && is_row(end)) ++end;
      look_at_table(i, end, named);
      i = end - 1;
    }
  }

  void look_at_table(size_t begin, size_t end, bool named) {
    const Lines header = cells_of(lines_[begin]);
    const auto column = static_cast<size_t>(std::find(header.begin(), header.end(), "command") - header.begin());
    size_t numbers = 0, cells = 0;
    for (size_t i = begin + 2; i < end; ++i) {
      const Lines row = cells_of(lines_[i]);
      if (column < header.size()) {
        if (column >= row.size() || row[column].empty()) add(i, "this row's figure");
        continue;
      }
      for (size_t c = 1; c < row.size(); ++c) cells += !row[c].empty() && row[c] != "-", numbers += is_number(row[c]);
    }
    if (column == header.size() && !named && numbers > 0 && 2 * numbers >= cells) add(begin, "a table of figures");
  }

  void add(size_t line, const std::string& subject) {
    found_.push_back({static_cast<int>(line) + 1, subject + " without its source: name the command that takes it in this section, or say \"predicted\""});
  }

  Lines lines_;
  std::vector<bool> fenced_;
  std::vector<UnnamedFigure> found_;
};

}  // namespace

std::vector<UnnamedFigure> figures_without_source(const std::string& markdown) { return Page(markdown).look(); }

}  // namespace facet::app
