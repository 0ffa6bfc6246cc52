// docs/ as a site: what is linked is there, what is not ends the build, and links lead where they did.
#include "app/figures.h"
#include "app/site.h"

#include <catch2/catch.hpp>

#include "tests/app/run.h"

using Catch::Contains;
namespace app = facet::app;
namespace fs = std::filesystem;

namespace {

std::string slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A small repository, gone at the end of the scope, and a file beside it that is none of its business.
struct Repository {
  TempFile outside{"outside.md", "# Not ours\n"};
  explicit Repository(const std::string& text) {
    write("docs/index.md", text);
    write("docs/a.md", "# Page A\n\n[up](index.md) and [below](#part-two), `b.h`, `room/b.h`, `gone.h`\n\n## Part two\n");
    write("room/b.h", "int b = 1 < 2;\n  int c;\n");
    write("room/README.md", "# The room\n\n[its header](b.h#L2), [`room/b.h` itself](b.h)\n\n```\n# no heading\n```\n");
    write("notebooks-cpp/01_x.cpp", "// %% [markdown]\n// # X\n// [b](../room/b.h)\n");
    write("lessons/01_x.html", "<title>X</title><body>\n<h1 id=\"x\">X</h1><a href=\"../room/b.h\">b</a>\n</body>");
  }
  void write(const std::string& name, const std::string& text) {
    const fs::path path = at(name);
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
  }
  std::string at(const std::string& name) const { return outside.folder + "/repository/" + name; }
  facet::app::Site build(const std::string& lessons = "") const { return facet::app::write_site(at("docs"), lessons, at("site")); }
};

}  // namespace

TEST_CASE("site: pages, sources and lessons that are linked, and links between them") {
  const Repository r("# Start\n\n1. [a](a.md#part-two)\n2. [x](../notebooks-cpp/01_x.cpp)\n3. [room](../room)\n\n[outside](https://a.b)\n\n"
                     "```cpp room/b.h\n  int b = 1 < 2;\n\nint c;\n```\n");
  fs::create_directories(r.at("site"));  // an empty folder is as good as none
  const facet::app::Site made = r.build(r.at("lessons"));
  CHECK(made.problems.empty());
  CHECK(made.pages == 5);
  CHECK(made.lessons == 1);
  CHECK_THAT(slurp(r.at("site/index.html")), Contains("<a href=\"docs/a.html#part-two\">a</a>") && Contains("<a href=\"notebooks-cpp/01_x.html\">") &&
                                                 Contains("<a href=\"room/README.html\">") && Contains("<a href=\"https://a.b\">"));
  CHECK_THAT(slurp(r.at("site/docs/a.html")), Contains("<a href=\"../index.html\">up</a>") && Contains("<a href=\"#part-two\">below</a>") &&
                                                  Contains("<code>b.h</code>, <a href=\"../room/b.h.html\"><code>room/b.h</code></a>, <code>gone.h</code>") &&
                                                  Contains("next: <a href=\"../notebooks-cpp/01_x.html\">X</a>"));
  CHECK_THAT(slurp(r.at("site/room/README.html")), Contains("<a href=\"b.h.html#L2\">") && Contains("<a href=\"b.h.html\"><code>room/b.h</code> itself</a>"));
  CHECK_THAT(slurp(r.at("site/room/b.h.html")), Contains("<span id=\"L2\"></span>") && Contains("1</span> &lt; "));
  CHECK_THAT(slurp(r.at("site/notebooks-cpp/01_x.html")), Contains("<a href=\"../room/b.h.html\">b</a>") && Contains("--run build/notebooks/01_x"));
  CHECK(r.build().problems.empty());  // again, over the old one; the lesson without a run is its source
  CHECK_THAT(slurp(r.at("site/notebooks-cpp/01_x.html")), Contains("[markdown]"));
  const Result told = run_facet("report --docs " + r.at("docs") + " --out " + r.at("site") + " --lessons " + r.at("lessons"));
  CHECK(told.code == 0);
  CHECK(told.err == "");
  CHECK_THAT(told.out, Contains("5 pages, 1 of them lessons that ran"));
}

TEST_CASE("site: a dead link, a missing anchor and lines that are not in their source are named, and nothing is written") {
  const auto complaint = [](const std::string& line, const std::string& expected) {
    const Repository r("# Start\n\n" + line + "\n");
    const facet::app::Site made = r.build();
    REQUIRE(made.problems.size() == 1);
    CHECK_THAT(made.problems[0], Contains(expected));
    CHECK_FALSE(fs::exists(r.at("site")));
  };
  complaint("[x](gone.md)", "docs/index.md:3: no such file: gone.md");
  complaint("[x](../../outside.md)", "docs/index.md:3: no such file");
  complaint("[x](a.md#part-three)", "docs/index.md:3: no #part-three in docs/a.md");
  complaint("[x](../room/b.h#L9)", "no #L9 in room/b.h");
  complaint("[x](../room/README.md#no-heading)", "no #no-heading in room/README.md");
  complaint("```cpp room/b.h\nint b = 1 > 2;\n```", "docs/index.md:3: these lines are not in room/b.h");
  complaint("```cpp room/b.h\nb = 1 < 2;\n```", "docs/index.md:3: these lines are not in room/b.h");  // part of a line
  complaint("```cpp room/gone.h\nint b;\n```", "docs/index.md:3: no such file: room/gone.h");
  const Repository r("[x](gone.md)\n");
  const Result told = run_facet("report --docs " + r.at("docs") + " --out " + r.at("site"));
  CHECK(told.code == 1);
  CHECK_THAT(told.err, Contains("docs/index.md:1: no such file: gone.md"));
}

TEST_CASE("site: nothing that is no site is overwritten") {
  Repository r("# Start\n");
  r.write("site/precious.txt", "mine");
  CHECK_THROWS_WITH(r.build(), Contains("is no site made by this command"));
  CHECK(slurp(r.at("site/precious.txt")) == "mine");
  CHECK(run_facet("report --docs " + r.at("docs") + " --out " + r.at("site")).code == 2);
  CHECK(run_facet("report --docs " + r.at("nowhere")).code == 3);
  CHECK(run_facet("report").code == 2);
}

TEST_CASE("site: a measured figure without its command is named") {
  const auto lines = [](const std::string& text) {
    std::vector<int> list;
    for (const app::UnnamedFigure& f : app::figures_without_source("# Page\n" + text)) list.push_back(f.line);
    return list;
  };
  const std::vector<int> none, third = {3};
  const std::string table = "| a | b |\n|---|---|\n| x | 1.2 |\n| y | **3 ms** |\n", command = "| a | command |\n|---|---|\n| 4 | `x` |\n| 5 | |\n";
  for (const char* measured : {"It makes 30k tokens/s.", "A step takes 1.5 ms.", "It is 2.5 times as fast.", "At most 4.5 GB are held."}) {
    INFO(measured);
    CHECK(lines("\n" + std::string(measured) + "\n") == third);
    CHECK(lines("\n" + std::string(measured) + " See `facet bench step`.\n") == none);
    CHECK(lines("\n" + std::string(measured) + " That is predicted.\n") == none);
  }
  for (const char* other : {"Rows of 512 tokens, 3 layers.", "`--seconds 20` and `4 GB`.", "Gemma 3 of 2025.", "```\n 3 ms\n```"}) {
    INFO(other);
    CHECK(lines("\n" + std::string(other) + "\n") == none);
  }
  CHECK(lines("\n" + table) == third);
  CHECK(lines("\n" + table + "\n```sh\nfacet bench op\n```\n") == none);
  CHECK(lines("## Other\n`facet env`\n## This\n" + table) == std::vector<int>{5});
  CHECK(lines("The table is what `facet env` prints.\n## This\n" + table) == none);
  CHECK(lines("\n| a | b |\n|---|---|\n| x | words |\n| y | more |\n") == none);
  CHECK(lines("\n" + command) == std::vector<int>{6});
  CHECK(lines("The table is what `facet env` prints.\n\n" + command) == std::vector<int>{7});

  const Repository r("# Start\n\n[a](a.md)\n\nIt makes 30k tokens/s.\n");
  const app::Site site = r.build();
  REQUIRE(site.problems.size() == 1);
  CHECK_THAT(site.problems[0], Catch::StartsWith("docs/index.md:5: a measured figure without its source"));
}
