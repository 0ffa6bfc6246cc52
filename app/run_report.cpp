#include "app/run_report.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "app/curves.h"
#include "app/html.h"
#include "tensor/io/durable.h"
#include "tensor/io/file.h"
#include "tensor/io/json.h"
#include "tensor/io/text.h"
#include "train/run_folder.h"

namespace facet::app {
namespace {
namespace fs = std::filesystem;
using Rows = std::vector<std::vector<std::string>>;

constexpr size_t shown_samples = 4, shown_completions = 12, shown_bytes = 4000, shown_warnings = 20;
constexpr uint64_t largest_text = uint64_t{4} << 20;

// A file's text, or "" where there is none that can be shown.
std::string text_of(const fs::path& path) {
  try {
    return fs::is_regular_file(path) ? read_file(path.string(), largest_text) : "";
  } catch (const Error&) {
    return "";
  }
}

std::string shortened(std::string text, size_t most) {
  if (text.size() <= most) return text;
  while (most > 0 && (static_cast<unsigned char>(text[most]) & 0xc0) == 0x80) --most;  // not inside of a character
  return text.substr(0, most) + " ...";
}

std::string pre(const std::string& text) { return "<pre>" + escape_html(text) + "</pre>\n"; }
std::string folded(const std::string& title, const std::string& body) {
  return body.empty() ? "" : "<details><summary>" + escape_html(title) + "</summary>\n" + body + "</details>\n";
}

std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> list;
  std::error_code none;
  for (fs::directory_iterator i(folder, none), end; !none && i != end; i.increment(none)) list.push_back(i->path());
  std::sort(list.begin(), list.end());
  return list;
}

double last(const Series& s, const std::string& name) {
  const auto it = s.points.find(name);
  return it == s.points.end() || it->second.empty() ? std::nan("") : it->second.back().second;
}

// Those a reader looks for first; each has a picture of its own, or shares one.
struct Picture {
  const char* title;
  std::vector<std::pair<std::string, std::string>> names;
  bool log_y = false;
};
const std::vector<Picture>& first_pictures() {
  static const std::vector<Picture> list = {
      {"Loss", {{"loss", "training"}, {"valid.loss", "validation"}}},
      {"Reward and problems solved", {{"reward", "mean reward"}, {"pass", "solved, sampled"}, {"valid.pass", "solved, held out"}}},
      {"Rewards of chosen and rejected", {{"rewards/chosen", "chosen"}, {"rewards/rejected", "rejected"}, {"rewards/margins", "margin"}}},
      {"Pairs in the right order", {{"rewards/accuracies", "training"}, {"valid.accuracy", "validation"}}},
      {"Norm of the gradient", {{"grad_norm", "norm"}}, true},
      {"Learning rate", {{"lr", "rate"}}},
      {"Tokens per second", {{"tokens_per_s", "tokens/s"}}},
  };
  return list;
}

std::string curves(const Series& series) {
  std::string out, others;
  std::set<std::string> drawn = {"tokens", "supervised"};  // they only grow, or only say how long a batch was
  for (const Picture& p : first_pictures()) {
    out += curves_html(series, p.names, {p.title, "step", "", false, p.log_y});
    for (const auto& [name, shown] : p.names) drawn.insert(name);
  }
  for (const std::string& name : series.names)
    if (!drawn.count(name) && !name.ends_with("_seconds")) others += curves_html(series, {{name, name}}, {name, "step", ""});
  return out + folded("Every other number", others);
}

std::string numbers(const Series& series) {
  Rows rows;
  for (const std::string& name : series.names) {
    const Points& p = series.points.at(name);
    double low = INFINITY, high = -INFINITY;
    for (const auto& [x, y] : p) low = std::fmin(low, y), high = std::fmax(high, y);
    rows.push_back({name, std::to_string(p.size()), short_number(p.front().second), short_number(p.back().second), short_number(low), short_number(high)});
  }
  return nb::table_html({"number", "points", "first", "last", "lowest", "highest"}, rows);
}

// Sums of "NAME_seconds" over all lines of the metrics.
std::string time(const Series& series) {
  std::map<std::string, double> seconds;
  for (const auto& [name, points] : series.points) {
    if (!name.ends_with("_seconds")) continue;
    const size_t dot = name.rfind('.') == std::string::npos ? 0 : name.rfind('.') + 1;  // behind the kind of line
    for (const auto& [step, s] : points)
      if (std::isfinite(s)) seconds[name.substr(dot, name.size() - dot - 8)] += s;
  }
  const double wall = seconds["wall"];
  if (wall <= 0) return "";
  seconds.erase("wall");
  double rest = wall;
  std::vector<std::pair<double, std::string>> parts;
  for (const auto& [name, s] : seconds) parts.emplace_back(s, name), rest -= s;
  std::sort(parts.rbegin(), parts.rend());
  parts.emplace_back(std::max(0.0, rest), "everything else");
  Rows rows;
  for (const auto& [s, name] : parts) rows.push_back({name, clock_text(s), fmt::format("{:.1f} %", 100 * s / wall)});
  rows.push_back({"all", clock_text(wall), ""});
  return "<h2>Where the time went</h2>\n" + nb::table_html({"part", "time", "share"}, rows);
}

std::string memory(const Series& series, const Json& env) {
  Rows rows;
  double planned = 0;
  if (const auto plan = env.find("memory"); plan != env.end() && plan->is_object())
    for (const auto& [name, bytes] : plan->items())
      if (bytes.is_number() && bytes.get<double>() >= 0 && bytes.get<double>() < 1e18) {
        rows.push_back({name, human_bytes(static_cast<uint64_t>(bytes.get<double>()))});
        planned += bytes.get<double>();
      }
  if (!rows.empty()) rows.push_back({"planned in all", human_bytes(static_cast<uint64_t>(planned))});
  double peak = 0;
  if (const auto it = series.points.find("peak_bytes"); it != series.points.end())
    for (const auto& [step, bytes] : it->second) peak = std::fmax(peak, bytes);
  if (peak > 0 && peak < 1e18) rows.push_back({"highest in use", human_bytes(static_cast<uint64_t>(peak))});
  return rows.empty() ? "" : "<h2>Where the memory went</h2>\n" + nb::table_html({"part", "bytes"}, rows);
}

std::string samples(const fs::path& folder) {
  const std::vector<fs::path> files = files_in(folder);
  std::string out;
  for (size_t i = 0; i < std::min(files.size(), shown_samples); ++i) {  // evenly, the first and the last among them
    const size_t at = files.size() <= shown_samples ? i : i * (files.size() - 1) / (shown_samples - 1);
    std::istringstream in(text_of(files[at]));
    std::string lines;
    for (std::string line; std::getline(in, line);) {
      const Json j = Json::parse(line, nullptr, false);
      if (!j.is_object()) continue;
      const auto text = [&](const char* key) { return j.contains(key) && j[key].is_string() ? j[key].get<std::string>() : std::string(); };
      lines += text("prompt") + " => " + text("answer") + (text("verdict").empty() ? "" : " (" + text("verdict") + ")") + "\n";
    }
    if (lines.empty()) continue;  // of another program
    out += "<h3>" + escape_html(files[at].stem().string()) + "</h3>\n" + pre(shortened(lines, shown_bytes));
  }
  return out.empty() ? "" : "<h2>Samples</h2>\n" + out;
}

std::string completions(const fs::path& folder) {
  const std::vector<fs::path> files = files_in(folder);
  if (files.empty()) return "";
  std::istringstream in(text_of(files.back()));
  Rows rows;
  for (std::string line; rows.size() < shown_completions && std::getline(in, line);) {
    const Json j = Json::parse(line, nullptr, false);
    if (!j.is_object()) continue;
    const auto shown = [&](const char* key) {
      const auto v = j.find(key);
      return v == j.end() ? "" : shortened(v->is_string() ? v->get<std::string>() : v->dump(), 300);
    };
    rows.push_back({shown("prompt"), shown("text"), shown("total"), shown("verdict")});
  }
  return rows.empty() ? "" : "<h2>Answers of " + escape_html(files.back().stem().string()) + "</h2>\n" + nb::table_html({"prompt", "answer", "reward", "verdict"}, rows);
}

std::string warnings(const std::string& console) {
  std::istringstream in(console);
  std::string out;
  size_t count = 0;
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("warning:") && ++count <= shown_warnings) out += line + "\n";
  if (count > shown_warnings) out += fmt::format("and {} more, in console.log\n", count - shown_warnings);
  return out.empty() ? "" : "<h2>Warnings</h2>\n" + pre(out);
}

}  // namespace

std::string run_page(const std::string& folder) {
  const Series series = read_metrics(folder + "/metrics.jsonl");
  if (series.lines == 0) fail(Kind::file, "{}/metrics.jsonl: no step was written yet", folder);
  Json env = Json::parse(text_of(fs::path(folder) / "env.json"), nullptr, false);
  if (!env.is_object()) env = Json::object();
  const std::string command = text_of(fs::path(folder) / "command.txt");
  const std::string name = fs::absolute(folder).lexically_normal().filename().empty() ? fs::absolute(folder).lexically_normal().parent_path().filename().string()
                                                                                       : fs::absolute(folder).lexically_normal().filename().string();
  double step = 0;
  for (const auto& [key, points] : series.points) step = std::fmax(step, points.back().first);

  std::string body = "<h1>" + escape_html(name) + "</h1>\n";
  body += fmt::format("<p class=\"status\">{} steps{}{}.</p>\n", grouped(static_cast<uint64_t>(step)),
                      std::isfinite(last(series, "loss")) ? fmt::format(", loss {:.4g}", last(series, "loss")) : "",
                      fs::exists(fs::path(folder) / "final") ? ", finished" : ", not finished");
  if (!command.empty()) body += pre(command);
  body += "<h2>How it went</h2>\n" + curves(series) + folded("First, last, lowest and highest of every number", numbers(series));
  body += warnings(text_of(fs::path(folder) / "console.log"));
  body += samples(fs::path(folder) / "samples") + completions(fs::path(folder) / "completions");
  body += time(series) + memory(series, env);

  Rows rows;
  for (const auto& [key, value] : env.items())
    if (key != "memory") rows.push_back({key, value.is_string() ? value.get<std::string>() : value.dump()});
  if (!rows.empty()) body += "<h2>Environment</h2>\n" + nb::table_html({"", ""}, rows);
  if (const std::string config = text_of(fs::path(folder) / "config.resolved.yaml"); !config.empty()) body += "<h2>Settings</h2>\n" + pre(config);
  return html_page(name, body);
}

}  // namespace facet::app
