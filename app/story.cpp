#include "app/story.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "app/curves.h"
#include "app/html.h"

namespace facet::app {
namespace {

std::string reward_histogram(const std::vector<Stage>& stages) {
  std::set<double> values;
  for (const Stage& g : stages) values.insert(g.rewards.begin(), g.rewards.end());
  std::vector<std::string> labels;
  std::vector<nb::Bars> bars;
  for (double v : values) labels.push_back(fmt::format("{:g}", v));
  for (const Stage& g : stages) {
    nb::Bars b{g.name, {}};
    for (double v : values)
      b.values.push_back(static_cast<double>(std::count(g.rewards.begin(), g.rewards.end(), v)) /
                         static_cast<double>(std::max<size_t>(1, g.rewards.size())));
    bars.push_back(std::move(b));
  }
  return "<div class=\"figure\">" + nb::bars_svg(labels, bars, {"Rewards of sampled answers", "reward", "share of answers"}) + "</div>\n";
}

}  // namespace

std::string with_error(double rate, double error) { return fmt::format("{:.3f} ±{:.3f}", rate, error); }

std::string story_page(const Story& story) {
  std::string body = "<h1>" + escape_html(story.title) + "</h1>\n" + markdown_to_html(story.task);

  body += "<h2>Held-out problems solved</h2>\n";
  std::vector<std::vector<std::string>> rows;
  for (const Stage& g : story.stages)
    rows.push_back({g.name, with_error(g.greedy.pass1, g.greedy.pass1_error), with_error(g.sampled.pass1, g.sampled.pass1_error),
                    with_error(g.longer.pass1, g.longer.pass1_error), fmt::format("{:.3f}", g.sampled.mean_reward),
                    fmt::format("{:.0f}%", 100 * g.sampled.stopped)});
  body += nb::table_html({"stage", "greedy pass@1", "sampled pass@1", "one factor longer than trained on", "mean reward", "ended by itself"}, rows);
  body += "<p class=\"status\">± is one standard error over multisets of factors: two orders of the same factors are one problem.</p>\n";

  body += "<h2>The same problems at each stage</h2>\n";
  std::vector<std::string> head{"problem", "right"};
  for (const Stage& g : story.stages) head.push_back(g.name);
  rows.clear();
  for (size_t i = 0; i < story.problems.size(); ++i) {
    rows.push_back({story.problems[i].first, story.problems[i].second});
    for (const Stage& g : story.stages) rows.back().push_back(i < g.answers.size() ? g.answers[i] : "");
  }
  body += nb::table_html(head, rows) + reward_histogram(story.stages);

  const Series sft = read_metrics(story.sft_run + "/metrics.jsonl");
  body += "<h2>Supervised training</h2>\n" + curves_html(sft, {{"loss", "training"}, {"valid.loss", "validation"}}, {"Loss, nats per token", "step", ""});
  if (!story.grpo_run.empty()) {
    const Series rl = read_metrics(story.grpo_run + "/metrics.jsonl");
    body += "<h2>Reinforcement learning</h2>\n";
    body += curves_html(rl, {{"reward", "mean reward"}, {"pass", "solved, sampled"}, {"valid.pass", "solved, held out, greedy"}}, {"Reward and problems solved", "step", ""});
    body += curves_html(rl, {{"zero_std", "groups without variance"}, {"clip", "clipped ratios"}, {"truncated", "cut off"}}, {"Shares", "step", ""});
    body += curves_html(rl, {{"entropy", "entropy, nats per token"}}, {"Entropy of what is sampled", "step", ""});
    body += curves_html(rl, {{"length", "tokens"}}, {"Length of an answer", "step", ""});
  }

  body += "<h2>Where the time went</h2>\n";
  rows.clear();
  double all = 0;
  for (const auto& [name, s] : story.seconds) all += s;
  for (const auto& [name, s] : story.seconds) rows.push_back({name, fmt::format("{:.1f} s", s), fmt::format("{:.0f}%", 100 * s / std::max(1e-9, all))});
  body += nb::table_html({"part", "time", "share"}, rows);

  body += "<h2>Settings</h2>\n";
  rows.clear();
  for (const auto& [name, value] : story.settings) rows.push_back({name, value});
  body += nb::table_html({"setting", "value"}, rows);

  body += "<h2>Try next</h2>\n<pre>";
  for (const std::string& command : story.next) body += escape_html(command) + "\n";
  body += "</pre>\n";
  return html_page(story.title, body);
}

}  // namespace facet::app
