// A lesson as a page: its text, its code, and under each cell what the program printed when it ran just now.
#include <nlohmann/json.hpp>

#include <filesystem>

#include "app/command.h"
#include "app/html.h"
#include "app/notebook.h"
#include "tensor/error.h"
#include "tensor/io/durable.h"
#include "tensor/io/file.h"
#include "tensor/io/text.h"

namespace facet::app {
namespace {

struct Settings : Common {
  std::string notebook, run, out, ipynb;
  bool quick = false;
  void declare(Options& o) {
    o.add("notebook", &notebook, "source of the lesson").metavar("FILE.cpp").positional().required();
    o.add("run", &run, "its program; without it the page has no outputs").metavar("PROGRAM");
    o.add("out", &out, "page to write; default: the lesson's name with .html").metavar("FILE.html");
    o.add("ipynb", &ipynb, "also write a Jupyter notebook with outputs").metavar("FILE.ipynb");
    o.add("quick", &quick, "run the program with --quick");
  }
};

constexpr const char* style = R"(
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
table{border-collapse:collapse;font-size:.88rem;margin:.8rem 0}th,td{padding:.25rem .9rem .25rem 0;text-align:left;border-bottom:1px solid var(--line);font-variant-numeric:tabular-nums}
blockquote{margin:.8rem 0;padding-left:1rem;border-left:3px solid var(--line);color:var(--soft)}
.checks{list-style:none;padding:0;margin:.4rem 0;font-size:.9rem}.checks li{padding-left:1.6rem;text-indent:-1.6rem}
.ok{color:var(--good)}.failed{color:var(--bad);font-weight:600}.ok::before{content:"\2713";display:inline-block;width:1.6rem;text-indent:0}.failed::before{content:"\2717";display:inline-block;width:1.6rem;text-indent:0}
.status{font-size:.9rem;color:var(--soft)}.status.bad{color:var(--bad);font-weight:600}
.k{color:var(--k)}.s{color:var(--s)}.c{color:var(--c);font-style:italic}.n{color:var(--n)}.p{color:var(--p)}
@media(max-width:40rem){p code,li code{white-space:normal}}
@media print{body{max-width:none}pre{white-space:pre-wrap}}
)";

std::string outputs_html(const std::vector<Output>& outputs, int line) {
  std::string out;
  bool list = false;
  for (const Output& o : outputs) {
    if (list != (o.kind == Output::Kind::check)) out += (list = !list) ? "<ul class=\"checks\">\n" : "</ul>\n";
    if (o.kind == Output::Kind::check) out += fmt::format("<li class=\"{}\">{}</li>\n", o.holds ? "ok" : "failed", escape_html(o.content));
    else if (o.kind == Output::Kind::html) out += "<div class=\"figure\">\n" + o.content + "</div>\n";
    else out += "<pre class=\"output\">" + escape_html(o.content) + "</pre>\n";
  }
  if (list) out += "</ul>\n";
  return out.empty() ? "" : fmt::format("<div class=\"outputs\" id=\"line-{}\">\n{}</div>\n", line, out);
}

// The marker and what only the compiler needs are machinery: the page shows the lesson.
std::string shown(const Cell& c) {
  std::string s = c.source;
  if (c.marked_line) {
    const size_t at = s.starts_with("NB_CELL") ? 0 : s.find("\nNB_CELL") + 1;
    s.erase(at, s.find('\n', at) + 1 - at);
  }
  return s;
}

std::string status_html(const NotebookRun& run, bool ran, bool quick) {
  if (!ran) return "<p class=\"status\">Not run: the page shows the source only.</p>\n";
  if (!run.error.empty()) return "<p class=\"status bad\">The program stopped: " + escape_html(run.error) + "</p>\n";
  if (!run.finished) return "<p class=\"status bad\">The program ended before its last cell.</p>\n";
  if (run.failed) return fmt::format("<p class=\"status bad\">{} of {} checks do not hold.</p>\n", run.failed, run.failed + run.held);
  return fmt::format("<p class=\"status\">{} checks hold{}.</p>\n", run.held, quick ? " (quick run)" : "");
}

std::string page(const std::vector<Cell>& cells, const NotebookRun& run, bool ran, bool quick, const std::string& name) {
  std::string title, intro, contents, body;  // the contents stand between the cell with the title and the rest
  for (const Cell& c : cells) {
    if (c.kind == Cell::Kind::raw) continue;
    if (c.kind == Cell::Kind::code) {
      body += "<pre><code>" + cpp_to_html(shown(c)) + "</code></pre>\n";
      const auto outputs = run.cells.find(c.marked_line);
      if (c.marked_line && outputs != run.cells.end()) body += outputs_html(outputs->second, c.marked_line);
      continue;
    }
    body += markdown_to_html(c.source);
    for (const Heading& h : headings_of(c.source)) {
      if (h.level == 2) contents += fmt::format("<a href=\"#{}\">{}</a>\n", h.id, h.html);
      if (h.level == 1 && title.empty()) {
        title = h.text;
        intro = std::exchange(body, "");
      }
    }
  }
  if (!contents.empty()) contents = "<nav>\n" + contents + "</nav>\n";
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, "
      "initial-scale=1\">\n<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n{}{}{}{}</body>\n</html>\n",
      escape_html(title.empty() ? name : title), style, intro, status_html(run, ran, quick), contents, body);
}

using Json = nlohmann::ordered_json;

// Checks and text become streams (a failed check on stderr, which Jupyter shows red), pictures display_data.
Json outputs_json(const std::vector<Output>& outputs) {
  Json out = Json::array();
  for (const Output& o : outputs) {
    if (o.kind == Output::Kind::html) {
      out.push_back({{"output_type", "display_data"}, {"metadata", Json::object()}, {"data", {{"text/html", o.content}, {"text/plain", "[picture]"}}}});
      continue;
    }
    const char* stream = o.holds ? "stdout" : "stderr";
    const std::string text = o.kind == Output::Kind::text ? o.content : (o.holds ? "    ok  " : "FAILED  ") + o.content + "\n";
    if (!out.empty() && out.back().value("name", "") == stream) out.back()["text"] = out.back()["text"].get<std::string>() + text;
    else out.push_back({{"output_type", "stream"}, {"name", stream}, {"text", text}});
  }
  return out;
}

std::string ipynb(const std::vector<Cell>& cells, const NotebookRun& run) {
  Json list = Json::array();
  int executed = 0;
  for (const Cell& c : cells) {
    const char* type = c.kind == Cell::Kind::markdown ? "markdown" : c.kind == Cell::Kind::raw ? "raw" : "code";
    std::string source = c.source;
    if (source.ends_with('\n')) source.pop_back();
    Json cell{{"cell_type", type}, {"id", fmt::format("line-{}", c.first_line)}, {"metadata", Json::object()}, {"source", source}};
    if (c.kind == Cell::Kind::raw) cell["metadata"]["active"] = "cpp";
    if (c.kind == Cell::Kind::code) {
      const auto found = run.cells.find(c.marked_line);
      const bool ran = c.marked_line && found != run.cells.end();
      cell["execution_count"] = ran ? Json(++executed) : Json();
      cell["outputs"] = ran ? outputs_json(found->second) : Json::array();
    }
    list.push_back(std::move(cell));
  }
  if (!run.error.empty() && !list.empty())
    for (auto it = list.rbegin(); it != list.rend(); ++it)
      if ((*it)["cell_type"] == "code" && !(*it)["execution_count"].is_null()) {
        (*it)["outputs"].push_back({{"output_type", "error"}, {"ename", "exception"}, {"evalue", run.error}, {"traceback", {run.error}}});
        break;
      }
  const Json book{{"cells", list},
                  {"metadata", {{"kernelspec", {{"display_name", "C++20"}, {"language", "C++20"}, {"name", "xcpp20"}}}, {"language_info", {{"name", "c++"}}}}},
                  {"nbformat", 4},
                  {"nbformat_minor", 5}};
  return book.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

int run(Settings& s, Options&, Console& console) {
  const std::vector<Cell> cells = read_cells(read_file(s.notebook), s.notebook);
  const std::string name = std::filesystem::path(s.notebook).stem().string();
  NotebookRun result;
  int code = 0;
  if (!s.run.empty()) {
    std::vector<std::string> command{s.run, "--records"};
    if (s.quick) command.push_back("--quick");
    result = read_records(run_and_read(command, code));
    check_same_version(cells, result, s.notebook, s.run);
  }
  const std::string out = s.out.empty() ? name + ".html" : s.out;
  write_file_atomically(out, page(cells, result, !s.run.empty(), s.quick, name));
  if (!s.ipynb.empty()) write_file_atomically(s.ipynb, ipynb(cells, result));
  if (console.json()) {
    console.line("{}", Json{{"out", out}, {"held", result.held}, {"failed", result.failed}, {"finished", result.finished}, {"exit_code", code}}.dump());
  } else {
    console.note("{}: {} checks hold, {} do not", out, result.held, result.failed);
  }
  if (s.run.empty() || (result.good() && code == 0)) return 0;
  if (!result.finished) console.warn("{}: ended with exit code {} before its last cell{}{}", s.run, code, result.error.empty() ? "" : ": ", printable(result.error));
  else if (!result.failed) console.warn("{}: exit code {}", s.run, code);
  return static_cast<int>(Kind::check);
}

}  // namespace

Command report_command() {
  return command<Settings>("report", "Run a lesson and write it as a page with its outputs",
                           "The page is one file, readable offline. The exit code is 1 when a check of the lesson does not hold.\n\n"
                           "  facet report --notebook notebooks-cpp/01_autodiff.cpp --run build/notebooks/01_autodiff --out 01_autodiff.html",
                           run);
}

}  // namespace facet::app
