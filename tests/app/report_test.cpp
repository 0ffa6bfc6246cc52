// The page of a run: everything on it, nothing from elsewhere, small for long runs.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>

#include "app/curves.h"
#include "app/run_report.h"
#include "tests/app/process.h"
#include "tests/app/run.h"
#include "tests/support/temp_folder.h"

using namespace facet::app;
using Catch::Contains;

namespace {

/// A made-up run of so many steps, with validation, samples, answers and settings.
struct MadeUpRun : facet::test::TempFolder {
  explicit MadeUpRun(int steps) {
    for (const char* folder : {"samples", "completions"}) std::filesystem::create_directories(path / folder);
    std::string lines;
    for (int i = 1; i <= steps; ++i) {
      lines += fmt::format(R"({{"kind":"train","step":{},"loss":{},"grad_norm":{},"lr":0.001,"tokens_per_s":{},"reward":{},"pass":0.5,"entropy":{},"peak_bytes":5000000,)"
                           R"("forward_seconds":0.01,"backward_seconds":0.02,"optimizer_seconds":0.005,"wall_seconds":0.04}})"
                           "\n",
                           i, 4.0 / (1 + 0.01 * i) + 0.1 * std::sin(i), 1 + 0.5 * std::cos(3 * i), 18000 + i % 977, std::sin(0.001 * i), 2 + std::sin(i * 7));
      if (i % 100 == 0) {
        lines += fmt::format("{{\"kind\":\"valid\",\"step\":{},\"loss\":{}}}\n", i, 4.0 / (1 + 0.01 * i));
        write(fmt::format("samples/step-{:06}.jsonl", i), fmt::format("{{\"prompt\": \"2+2=\", \"answer\": \"{} <script>alert(1)</script>\"}}\n", i));
      }
    }
    lines += fmt::format("{{\"kind\":\"end\",\"step\":{},\"checkpoint_seconds\":3.5,\"wall_seconds\":4}}\n", steps);
    write("metrics.jsonl", lines);
    write("completions/step-000001.jsonl", "{\"prompt\":\"<b>?\",\"text\":\"four\",\"total\":1.0,\"verdict\":\"right\"}\n{broken\n");
    write("config.resolved.yaml", "model: m\ntrain: {lr: 0.001}\n");
    write("command.txt", "facet grpo m --out run\n");
    write("env.json", R"({"facet": "0.1", "cpu": "A <CPU>", "threads": 2, "memory": {"weights": 1000000, "activations": 3000000}})");
    write("console.log", "[T] step 1\nwarning: step 7: the loss is not finite\n");
  }
};

}  // namespace

TEST_CASE("report: a run of 10,000 steps is one page below 3 MB, with nothing from elsewhere") {
  const MadeUpRun run(10'000);
  const std::string out = run / "x.html";
  const Result r = run_facet("report " + run.path.string() + " --out " + out);
  INFO(r.err);
  REQUIRE(r.code == 0);
  CHECK_THAT(r.out, Contains("wrote " + out));
  const std::string page = facet::test::content_of(out);
  CHECK(page.size() < 3'000'000);
  CHECK(page.size() > 20'000);
  std::string visited = page;  // names of namespaces are no addresses that anybody visits
  const std::string name = "xmlns=\"http://www.w3.org/2000/svg\"";
  for (size_t at; (at = visited.find(name)) != std::string::npos;) visited.erase(at, name.size());
  for (const char* word : {"http:", "https:", "<script", "<link", "@import", "src="}) CHECK(visited.find(word) == std::string::npos);
  for (const char* word : {"prefers-color-scheme:dark", "10,000 steps", "finished", "facet grpo m --out run", "Where the time went", "backward", "Where the memory went",
                           "Environment", "A &lt;CPU&gt;", "train: {lr: 0.001}", "&lt;script&gt;alert(1)", "&lt;b&gt;?", "the loss is not finite", "step-010000"})
    CHECK_THAT(page, Contains(word));
  CHECK_THAT(page, Contains("<tr><td>forward</td><td>1:40</td><td>24.8 %</td></tr>"));  // 100 of 404 s
  CHECK_THAT(page, Contains("<tr><td>everything else</td><td>0:51</td>"));
  CHECK_THAT(page, Contains("aria-label=\"Loss\""));
}

TEST_CASE("report: where there is no run, or both are asked for") {
  const MadeUpRun run(3);
  CHECK(run_facet("report " + run.path.string()).code == 0);
  CHECK(std::filesystem::exists(run / "report.html"));
  CHECK(run_facet("report /nowhere").code == 3);
  CHECK(run_facet("report").code == 2);
  CHECK(run_facet("report " + run.path.string() + " --notebook a.cpp").code == 2);
  CHECK(run_facet("report " + run.path.string() + " --quick").code == 2);
  run.write("metrics.jsonl", "");
  CHECK(run_facet("report " + run.path.string()).code == 3);
}

TEST_CASE("curves: fewer points, the same picture") {
  Points points;
  for (int i = 0; i < 100'000; ++i) points.emplace_back(i, i == 54'321 ? 9.0 : i == 777 ? -9.0 : std::sin(i));
  const Points few = decimated(points, 100);
  CHECK(few.size() <= 404);
  CHECK(few.front() == points.front());
  CHECK(few.back() == points.back());
  CHECK(std::count(few.begin(), few.end(), points[54'321]) == 1);
  CHECK(std::count(few.begin(), few.end(), points[777]) == 1);
  CHECK(std::is_sorted(few.begin(), few.end(), [](const auto& a, const auto& b) { return a.first < b.first; }));
  CHECK(decimated({{0, 1}, {1, 2}}) == Points{{0, 1}, {1, 2}});
  for (size_t i = 0; i < points.size(); i += 2) points[i].second = std::nan("");
  for (const auto& [x, y] : decimated(points, 100)) CHECK_FALSE(std::isnan(y));  // single gaps close
  for (auto& [x, y] : points) y = std::nan("");
  CHECK(std::isnan(decimated(points, 10)[5].second));
}
