// Pages: a training run with its curves, samples and settings; a lesson, its text, its code, and under each cell what the program printed
// when it ran just now; and docs/ as a site.
#include <nlohmann/json.hpp>

#include <filesystem>

#include "app/command.h"
#include "app/html.h"
#include "app/notebook.h"
#include "app/run_report.h"
#include "app/site.h"
#include "tensor/error.h"
#include "tensor/io/durable.h"
#include "tensor/io/file.h"
#include "tensor/io/text.h"

namespace facet::app {
namespace {

struct Settings : Common {
  std::string folder, notebook, run, out, ipynb, docs, lessons;
  bool quick = false;
  void declare(Options& o) {
    o.add("run-folder", &folder, "folder of a training run").metavar("RUN").positional();
    o.add("out", &out, "page to write; default: RUN/report.html, or the lesson's name with .html. Of --docs: a folder").metavar("FILE.html");
    o.add("notebook", &notebook, "instead of a run: source of a lesson").metavar("FILE.cpp");
    o.add("run", &run, "of --notebook: its program; without it the page has no outputs").metavar("PROGRAM");
    o.add("ipynb", &ipynb, "of --notebook: also write a Jupyter notebook with outputs").metavar("FILE.ipynb");
    o.add("quick", &quick, "of --notebook: run the program with --quick");
    o.add("docs", &docs, "instead of a run: the pages linked from its index.md; exit code 1 when a link is dead").metavar("FOLDER");
    o.add("lessons", &lessons, "of --docs: where the pages of lessons lie").metavar("FOLDER");
    o.rule([this]() -> std::string {
      if (!folder.empty() + !notebook.empty() + !docs.empty() != 1) return "report: expected a run's folder, --notebook FILE.cpp or --docs FOLDER, one of them";
      if (notebook.empty() && (!run.empty() || !ipynb.empty() || quick)) return "--run, --ipynb and --quick go with --notebook";
      return {};
    });
  }
};

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
  return html_page(title.empty() ? name : title, intro + status_html(run, ran, quick) + contents + body);
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

int run_docs(const Settings& s, Console& console) {
  const std::string out = s.out.empty() ? "site" : s.out;
  const Site site = write_site(s.docs, s.lessons, out);
  for (const std::string& p : site.problems) console.warn("{}", p);
  if (console.json()) console.line("{}", Json{{"out", out}, {"pages", site.pages}, {"lessons", site.lessons}, {"problems", site.problems}}.dump());
  else if (site.problems.empty()) console.note("{}/index.html: {} pages, {} of them lessons that ran", out, site.pages, site.lessons);
  return site.problems.empty() ? 0 : static_cast<int>(Kind::check);
}

int run_report(const Settings& s, Console& console) {
  const std::string out = s.out.empty() ? s.folder + "/report.html" : s.out, page = run_page(s.folder);
  write_file_atomically(out, page);
  if (console.json()) console.line("{}", Json{{"out", out}, {"bytes", page.size()}}.dump());
  else console.note("wrote {} ({})", out, human_bytes(page.size()));
  return 0;
}

int run(Settings& s, Options&, Console& console) {
  if (!s.folder.empty()) return run_report(s, console);
  if (!s.docs.empty()) return run_docs(s, console);
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
  return command<Settings>("report", "Write a training run, a lesson with its outputs, or docs/ as pages",
                           "A page is one file, readable offline. The exit code is 1 when a check of the lesson does not hold.\n\n"
                           "  facet report runs/radicals/sft --out sft.html\n"
                           "  facet report --notebook notebooks-cpp/01_autodiff.cpp --run build/notebooks/01_autodiff --out 01_autodiff.html\n"
                           "  facet report --docs docs --lessons build/notebooks --out site",
                           run);
}

}  // namespace facet::app
