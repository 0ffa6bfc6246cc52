#include "app/html.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

namespace facet::app {
namespace {

constexpr const char* page_style = R"(
:root{color-scheme:light dark;--text:#1d2129;--soft:#5b6472;--page:#fdfdfc;--box:#f4f4f1;--line:#dcdcd6;--link:#1b63a8;--good:#217a48;--bad:#b3261e;
--k:#8a3ab0;--s:#2a7a3b;--c:#6d7683;--n:#a3530f;--p:#8a6100}
@media(prefers-color-scheme:dark){:root{--text:#e4e6ea;--soft:#9aa3b0;--page:#16181c;--box:#1f2228;--line:#353a43;--link:#7db8f0;--good:#62c48d;--bad:#ff8a80;
--k:#cf9bef;--s:#8fd19e;--c:#8a94a3;--n:#f0a868;--p:#d9b45b}}
body{margin:0 auto;max-width:60rem;padding:2rem 1.2rem 5rem;background:var(--page);color:var(--text);font:17px/1.6 Charter,Georgia,serif}
h1,h2,h3,nav,.status,.checks,table{font-family:system-ui,sans-serif}
h1{font-size:2rem;line-height:1.2;margin:0 0 .6rem}h2{font-size:1.35rem;margin:2.8rem 0 .4rem}h3{font-size:1.1rem;margin:2rem 0 .3rem}
p,ul,ol,blockquote{max-width:46rem}a{color:var(--link)}p{margin:.6rem 0}li{margin:.25rem 0}
nav{font-size:.88rem;border-left:3px solid var(--line);padding-left:1rem;margin:1.4rem 0}nav a{display:block;text-decoration:none;line-height:1.7}
code,pre{font-family:ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;font-size:.84em}
code{background:var(--box);padding:.08em .3em;border-radius:3px}p code,li code{white-space:nowrap}pre code{background:none;padding:0;font-size:1em}
pre{font-size:.78rem;line-height:1.5;overflow-x:auto;margin:.9rem 0;padding:.8rem 1rem;background:var(--box);border:1px solid var(--line);border-radius:6px;tab-size:2}
pre.output{background:none;border-style:none none none solid;border-width:3px;border-radius:0;margin:.4rem 0}
.outputs{margin:-.2rem 0 1.2rem}.figure{overflow-x:auto;margin:.8rem 0}
table{display:block;width:max-content;max-width:100%;overflow-x:auto;border-collapse:collapse;font-size:.88rem;margin:.8rem 0}th,td{padding:.25rem .9rem .25rem 0;text-align:left;border-bottom:1px solid var(--line);font-variant-numeric:tabular-nums}
blockquote{margin:.8rem 0;padding-left:1rem;border-left:3px solid var(--line);color:var(--soft)}
.checks{list-style:none;padding:0;margin:.4rem 0;font-size:.9rem}.checks li{padding-left:1.6rem;text-indent:-1.6rem}
.ok{color:var(--good)}.failed{color:var(--bad);font-weight:600}.ok::before{content:"\2713";display:inline-block;width:1.6rem;text-indent:0}.failed::before{content:"\2717";display:inline-block;width:1.6rem;text-indent:0}
.status{font-size:.9rem;color:var(--soft)}.status.bad{color:var(--bad);font-weight:600}
.k{color:var(--k)}.s{color:var(--s)}.c{color:var(--c);font-style:italic}.n{color:var(--n)}.p{color:var(--p)}
@media(max-width:40rem){p code,li code{white-space:normal}}
@media print{body{max-width:none}pre{white-space:pre-wrap}}
)";

bool alphanumeric(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }
bool digit(char c) { return c >= '0' && c <= '9'; }

std::string_view trimmed(std::string_view s) {
  while (!s.empty() && (s.front() == ' ' || s.front() == '\t')) s.remove_prefix(1);
  while (!s.empty() && (s.back() == ' ' || s.back() == '\t' || s.back() == '\r')) s.remove_suffix(1);
  return s;
}

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> out;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    out.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

// A scheme is what stands before the first ':' if no '/', '?' or '#' comes earlier; only the web's own are let through.
bool harmless(std::string_view url) {
  const size_t colon = url.find(':');
  if (colon == std::string_view::npos || url.find_first_of("/?#") < colon) return true;
  return url.starts_with("https:") || url.starts_with("http:");
}

std::string inline_html(std::string_view s) {
  std::string out;
  for (size_t i = 0; i < s.size();) {
    const std::string_view rest = s.substr(i);
    if (rest[0] == '\\' && rest.size() > 1 && std::ispunct(static_cast<unsigned char>(rest[1]))) {
      out += escape_html(rest.substr(1, 1));
      i += 2;
      continue;
    }
    if (rest[0] == '`') {
      const size_t ticks = std::min(rest.find_first_not_of('`'), rest.size());
      const size_t end = rest.find(rest.substr(0, ticks), ticks);
      if (end != std::string_view::npos) {
        out += "<code>" + escape_html(trimmed(rest.substr(ticks, end - ticks))) + "</code>";
        i += end + ticks;
        continue;
      }
    }
    const std::string_view mark = rest.starts_with("**") ? "**" : "*";
    if (rest[0] == '*' && rest.size() > mark.size() && rest[mark.size()] != ' ') {
      size_t end = rest.find(mark, mark.size() + 1);
      while (end != std::string_view::npos && rest[end - 1] == ' ') end = rest.find(mark, end + 1);
      if (end != std::string_view::npos) {
        const char* tag = mark.size() == 2 ? "strong" : "em";
        out += fmt::format("<{0}>{1}</{0}>", tag, inline_html(rest.substr(mark.size(), end - mark.size())));
        i += end + mark.size();
        continue;
      }
    }
    if (rest[0] == '[') {
      const size_t close = rest.find("](");
      const size_t end = close == std::string_view::npos ? close : rest.find(')', close);
      if (end != std::string_view::npos) {
        const std::string label = inline_html(rest.substr(1, close - 1));
        const std::string_view url = rest.substr(close + 2, end - close - 2);
        out += harmless(url) ? fmt::format("<a href=\"{}\">{}</a>", escape_html(url), label) : label;
        i += end + 1;
        continue;
      }
    }
    const size_t plain = std::max<size_t>(1, std::min(rest.find_first_of("\\`*["), rest.size()));
    out += escape_html(rest.substr(0, plain));
    i += plain;
  }
  return out;
}

// 1 to 6 for "# " ... "###### ".
int heading_level(std::string_view line) {
  const size_t marks = std::min(line.find_first_not_of('#'), line.size());
  return marks >= 1 && marks <= 6 && marks < line.size() && line[marks] == ' ' ? static_cast<int>(marks) : 0;
}

std::string id_of(std::string_view heading) {
  std::string out;
  for (char c : heading) {
    if (alphanumeric(c)) out += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    else if (!out.empty() && out.back() != '-') out += '-';
  }
  while (out.ends_with('-')) out.pop_back();
  return out.empty() ? "section" : out;
}

// How many characters "- " or "12. " takes; 0 when the line starts no list item.
size_t item_mark(std::string_view line) {
  if (line.starts_with("- ") || line.starts_with("* ")) return 2;
  const size_t digits = std::min(line.find_first_not_of("0123456789"), line.size());
  return digits > 0 && line.substr(digits).starts_with(". ") ? digits + 2 : 0;
}

std::vector<std::string_view> table_cells(std::string_view line) {
  line = trimmed(line);
  if (line.starts_with('|')) line.remove_prefix(1);
  if (line.ends_with('|')) line.remove_suffix(1);
  std::vector<std::string_view> out;
  size_t begin = 0;
  bool code = false;
  for (size_t i = 0; i <= line.size(); ++i) {
    if (i < line.size() && line[i] == '`') code = !code;
    if (i == line.size() || (line[i] == '|' && !code)) {
      out.push_back(trimmed(line.substr(begin, i - begin)));
      begin = i + 1;
    }
  }
  return out;
}

bool table_rule(std::string_view line) {
  return line.find('|') != std::string_view::npos && line.find("---") != std::string_view::npos &&
         line.find_first_not_of("|-: ") == std::string_view::npos;
}

std::string table_row(std::string_view line, const char* tag) {
  std::string out = "<tr>";
  for (std::string_view cell : table_cells(line)) out += fmt::format("<{0}>{1}</{0}>", tag, inline_html(cell));
  return out + "</tr>\n";
}

bool starts_block(std::string_view line) {
  return line.empty() || heading_level(line) || item_mark(line) || line.starts_with("```") || line.starts_with(">");
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  for (char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default: out += c;
    }
  }
  return out;
}

std::string markdown_to_html(std::string_view markdown) {
  const auto lines = lines_of(markdown);
  std::string out;
  for (size_t i = 0; i < lines.size();) {
    const std::string_view line = trimmed(lines[i]);
    if (line.empty()) {
      ++i;
    } else if (const int level = heading_level(line)) {
      const std::string_view title = trimmed(line.substr(level));
      out += fmt::format("<h{0} id=\"{1}\">{2}</h{0}>\n", level, id_of(title), inline_html(title));
      ++i;
    } else if (line.starts_with("```")) {
      const bool cpp = line.substr(3).starts_with("cpp") || line.substr(3).starts_with("c++");
      std::string code;
      for (++i; i < lines.size() && !trimmed(lines[i]).starts_with("```"); ++i) code += std::string(lines[i]) + "\n";
      ++i;
      out += "<pre><code>" + (cpp ? cpp_to_html(code) : escape_html(code)) + "</code></pre>\n";
    } else if (line.starts_with(">")) {
      std::string quoted;
      for (; i < lines.size() && trimmed(lines[i]).starts_with(">"); ++i) quoted += std::string(trimmed(trimmed(lines[i]).substr(1))) + "\n";
      out += "<blockquote>" + markdown_to_html(quoted) + "</blockquote>\n";
    } else if (item_mark(line)) {
      const bool ordered = digit(line[0]);
      out += ordered ? "<ol>\n" : "<ul>\n";
      while (i < lines.size() && item_mark(trimmed(lines[i])) && digit(trimmed(lines[i])[0]) == ordered) {
        std::string item(trimmed(lines[i]).substr(item_mark(trimmed(lines[i]))));
        for (++i; i < lines.size() && !starts_block(trimmed(lines[i])); ++i) item += "\n" + std::string(trimmed(lines[i]));
        out += "<li>" + inline_html(item) + "</li>\n";
      }
      out += ordered ? "</ol>\n" : "</ul>\n";
    } else if (i + 1 < lines.size() && line.find('|') != std::string_view::npos && table_rule(lines[i + 1])) {
      out += "<table>\n<thead>" + table_row(line, "th") + "</thead>\n<tbody>\n";
      for (i += 2; i < lines.size() && lines[i].find('|') != std::string_view::npos; ++i) out += table_row(lines[i], "td");
      out += "</tbody>\n</table>\n";
    } else {
      std::string paragraph(line);
      for (++i; i < lines.size() && !starts_block(trimmed(lines[i])); ++i) paragraph += "\n" + std::string(trimmed(lines[i]));
      out += "<p>" + inline_html(paragraph) + "</p>\n";
    }
  }
  return out;
}

std::vector<Heading> headings_of(std::string_view markdown) {
  std::vector<Heading> out;
  bool fenced = false;
  for (std::string_view line : lines_of(markdown)) {
    line = trimmed(line);
    if (line.starts_with("```")) fenced = !fenced;
    const int level = fenced ? 0 : heading_level(line);
    if (!level) continue;
    const std::string_view title = trimmed(line.substr(level));
    out.push_back({level, std::string(title), inline_html(title), id_of(title)});
  }
  return out;
}

std::string cpp_to_html(std::string_view s) {
  static constexpr std::array keywords = {
      "alignas", "auto", "bool", "break", "case", "catch", "char", "class", "concept", "const", "consteval", "constexpr", "continue",
      "decltype", "default", "delete", "do", "double", "else", "enum", "explicit", "false", "final", "float", "for", "friend", "if",
      "inline", "int", "int32_t", "int64_t", "long", "mutable", "namespace", "new", "noexcept", "nullptr", "operator", "override",
      "private", "public", "requires", "return", "short", "signed", "size_t", "sizeof", "static", "static_assert", "struct", "switch",
      "template", "this", "throw", "true", "try", "typename", "uint32_t", "uint64_t", "uint8_t", "union", "unsigned", "using",
      "virtual", "void", "while"};
  std::string out;
  const auto span = [&](const char* kind, size_t length) {
    out += fmt::format("<span class=\"{}\">{}</span>", kind, escape_html(s.substr(0, length)));
    s.remove_prefix(length);
  };
  const auto to = [&](std::string_view end, size_t from) {
    const size_t at = s.find(end, from);
    return at == std::string_view::npos ? s.size() : at + end.size();
  };
  bool line_start = true;
  while (!s.empty()) {
    const char c = s[0];
    if (c == '\n' || c == ' ' || c == '\t') {
      line_start = c == '\n' || line_start;
      out += c;
      s.remove_prefix(1);
      continue;
    }
    const bool first = std::exchange(line_start, false);
    if (s.starts_with("//")) {
      span("c", std::min(s.find('\n'), s.size()));
    } else if (s.starts_with("/*")) {
      span("c", to("*/", 2));
    } else if (c == '#' && first) {
      span("p", std::min(s.find_first_of("\n"), s.size()));
    } else if (s.starts_with("R\"") && s.find('(') < 20) {
      span("s", to(")" + std::string(s.substr(2, s.find('(') - 2)) + "\"", 2));
    } else if (c == '"' || c == '\'') {
      size_t end = 1;
      while (end < s.size() && s[end] != c && s[end] != '\n') end += s[end] == '\\' ? 2 : 1;
      span("s", std::min(end + 1, s.size()));
    } else if (digit(c) || (c == '.' && s.size() > 1 && digit(s[1]))) {
      size_t end = 1;
      const auto belongs = [&] {
        const char n = s[end], before = s[end - 1];
        return alphanumeric(n) || n == '.' || n == '\'' || ((n == '-' || n == '+') && (before == 'e' || before == 'E'));
      };
      while (end < s.size() && belongs()) ++end;
      span("n", end);
    } else if (alphanumeric(c)) {
      size_t end = 1;
      while (end < s.size() && alphanumeric(s[end])) ++end;
      if (std::find(keywords.begin(), keywords.end(), s.substr(0, end)) != keywords.end()) {
        span("k", end);
      } else {
        out += s.substr(0, end);
        s.remove_prefix(end);
      }
    } else {
      out += escape_html(s.substr(0, 1));
      s.remove_prefix(1);
    }
  }
  return out;
}

std::string html_page(std::string_view title, std::string_view body) {
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, "
      "initial-scale=1\">\n<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n{}</body>\n</html>\n",
      escape_html(title), page_style, body);
}

}  // namespace facet::app
