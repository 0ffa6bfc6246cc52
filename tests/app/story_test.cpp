// The page the tour ends with: one file, nothing in it but what the runs wrote, and no text that becomes markup.
#include "app/story.h"

#include <catch2/catch.hpp>

#include <filesystem>

#include "notebooks-cpp/nb.hpp"
#include "tests/app/run.h"

using namespace facet::app;
using Catch::Contains;

namespace {

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

}  // namespace

TEST_CASE("bars: one column a value, heights in proportion, names escaped") {
  const std::string svg = nb::bars_svg({"0", "<1>"}, {{"a & b", {0.5, 1}}, {"c", {0, std::nan("")}}}, {"t", "x", "y"});
  CHECK(count(svg, "<title>") == 3);  // a value that is no number has no column
  CHECK_THAT(svg, Contains("&lt;1&gt;") && Contains("a &amp; b"));
  const auto height = [&](const char* title) {
    const size_t end = svg.find(std::string("<title>") + title);
    const size_t at = svg.rfind("height=\"", end);
    return std::stod(svg.substr(at + 8));
  };
  CHECK(height("1<") == Approx(2 * height("0.5<")).epsilon(0.01));
  CHECK(height("0<") == 0);
  CHECK_NOTHROW(nb::bars_svg({}, {}, {}));
}

TEST_CASE("story: tables, curves and answers on one page") {
  const TempFile sft("metrics.jsonl", "{\"step\":1,\"kind\":\"train\",\"loss\":2}\n{\"step\":2,\"kind\":\"train\",\"loss\":1}\n");
  const TempFile rl("metrics.jsonl", "{\"step\":1,\"kind\":\"train\",\"loss\":0,\"reward\":0.2,\"zero_std\":0.5}\n{\"step\":2,\"kind\":\"train\",\"loss\":0,\"reward\":0.6,\"zero_std\":0.4}\n");
  Story story;
  story.title = "A <tour>";
  story.task = "What is **asked**.";
  story.problems = {{"√(2·2)=", "2"}};
  for (const char* name : {"SFT", "GRPO"}) {
    Stage g;
    g.name = name;
    g.greedy.pass1 = 0.25, g.greedy.pass1_error = 0.031;
    g.answers = {"<b>2</b> (wrong)"};
    g.rewards = {0, 0.3, 1, 1};
    story.stages.push_back(g);
  }
  story.sft_run = sft.folder, story.grpo_run = rl.folder;
  story.seconds = {{"sampling", 1}, {"learning", 3}};
  story.next = {"facet generate -p '<x>'"};
  story.settings = {{"seed", "1"}};
  const std::string page = story_page(story);
  CHECK_THAT(page, Contains("<title>A &lt;tour&gt;</title>") && Contains("0.250 ±0.031") && Contains("&lt;b&gt;2&lt;/b&gt;") && Contains("75%") &&
                       Contains("facet generate -p &#39;&lt;x&gt;&#39;"));
  CHECK(page.find("<b>2") == std::string::npos);
  CHECK(page.find("<script") == std::string::npos);
  CHECK(page.find("http://") == page.find("http://www.w3.org/2000/svg"));  // nothing is fetched from anywhere
  CHECK(count(page, "<svg") == 4);  // rewards, loss, reward, shares: curves that a run lacks are left out
}

TEST_CASE("pass rate: the error counts problems, not their spellings") {
  const auto answers = [](std::initializer_list<int> right) {
    std::vector<std::vector<Answer>> list;
    for (int r : right) {
      Answer a;
      a.right = r;
      list.push_back({a});
    }
    return list;
  };
  // Four questions, mean 1/2: apart the standard error is sqrt(1/4 / 3); as two problems of two spellings that agree it is that of two
  // draws, sqrt(1/4 / 1).
  CHECK(pass_rate(answers({1, 1, 0, 0})).pass1_error == Approx(std::sqrt(0.25 / 3)));
  CHECK(pass_rate(answers({1, 1, 0, 0}), {"a", "a", "b", "b"}).pass1_error == Approx(0.5));
  CHECK(pass_rate(answers({1, 1, 0, 0}), {"a", "b", "a", "b"}).pass1_error == Approx(0).margin(1e-12));  // every problem half solved
  CHECK(pass_rate(answers({1, 0, 1, 0}), {"a", "b", "a", "b"}).pass1 == 0.5);
}
