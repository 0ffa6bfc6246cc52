// Lessons as pages: what is text stays text, output stands under its cell, and a failed check is not hidden.
#include "app/notebook.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "app/html.h"
#include "tensor/error.h"
#include "tests/app/run.h"

using namespace facet::app;
using Catch::Contains;

TEST_CASE("html: markdown that lessons use") {
  CHECK(markdown_to_html("# A *b*\n\ntext\nmore") == "<h1 id=\"a-b\">A <em>b</em></h1>\n<p>text\nmore</p>\n");
  CHECK(markdown_to_html("- one\n  goes on\n- two") == "<ul>\n<li>one\ngoes on</li>\n<li>two</li>\n</ul>\n");
  CHECK(markdown_to_html("1. one\n2. two") == "<ol>\n<li>one</li>\n<li>two</li>\n</ol>\n");
  CHECK(markdown_to_html("a **b** `c * d` \\*e*") == "<p>a <strong>b</strong> <code>c * d</code> *e*</p>\n");
  CHECK(markdown_to_html("2 * 3 * 4 and snake_case_name") == "<p>2 * 3 * 4 and snake_case_name</p>\n");
  CHECK(markdown_to_html("[x](https://a.b/c?d=1&e)") == "<p><a href=\"https://a.b/c?d=1&amp;e\">x</a></p>\n");
  CHECK(markdown_to_html("|a|b|\n|---|---|\n|1|`x|y`|") ==
        "<table>\n<thead><tr><th>a</th><th>b</th></tr>\n</thead>\n<tbody>\n<tr><td>1</td><td><code>x|y</code></td></tr>\n</tbody>\n</table>\n");
  CHECK(markdown_to_html("```\na < b\n```\n> q") == "<pre><code>a &lt; b\n</code></pre>\n<blockquote><p>q</p>\n</blockquote>\n");
}

TEST_CASE("html: nothing in a text becomes markup") {
  CHECK(markdown_to_html("<script>x</script> & \"y\"") == "<p>&lt;script&gt;x&lt;/script&gt; &amp; &quot;y&quot;</p>\n");
  CHECK(markdown_to_html("[x](javascript:alert(1))") == "<p>x)</p>\n");
  CHECK(markdown_to_html("[x](JavaScript:y) [z](data:text/html,q)") == "<p>x z</p>\n");
  CHECK_THAT(markdown_to_html("[x](a\"onclick=b)"), Contains("href=\"a&quot;onclick=b\""));
  for (const char* torn : {"*", "**", "`", "``", "[", "[x](", "***a", "a**", "|", "#", "```", ">", "- ", "1. ", "\\", "**a*", "[]()"})
    CHECK_NOTHROW(markdown_to_html(torn));
}

TEST_CASE("html: colours change no character") {
  const std::string source = "#include <a>\nint x = 1'000 + 2e-3; // \"not text\" <b>\nauto s = R\"(a \" // b)\" \"\\\"<\" 'c'; /* e\nf */ while (x<y) z&=1;";
  const std::string html = cpp_to_html(source);
  std::string plain;
  for (size_t i = 0; i < html.size(); ++i) {
    if (html[i] == '<') i = html.find('>', i);
    else plain += html[i];
  }
  CHECK(plain == escape_html(source));
  CHECK_THAT(html, Contains("<span class=\"k\">int</span> x") && Contains("<span class=\"n\">1&#39;000</span>") && Contains("<span class=\"n\">2e-3</span>") &&
                       Contains("<span class=\"c\">// &quot;not text&quot; &lt;b&gt;</span>") && Contains("<span class=\"s\">R&quot;(a &quot; // b)&quot;</span>") &&
                       Contains("<span class=\"s\">&quot;\\&quot;&lt;&quot;</span>"));
  for (const char* torn : {"\"", "'", "/*", "R\"", "R\"(", "\"\\", "//", "#", "1e"}) CHECK_FALSE(cpp_to_html(torn).empty());
}

namespace {
const std::string lesson = R"(// ---
// header
// ---

// %% [markdown]
// # Title & more
//
// ## Part

// %%
int twice(int x) { return 2 * x; }

// %% active="cpp"
int main() {

// %%
NB_CELL
check(twice(2) == 4 && 1 < 2);

// %%
NB_CELL
print();
)";
constexpr int first_mark = 17, second_mark = 21;

// A program that writes what it is told, as a lesson would.
struct Program : TempFile {
  Program(const std::string& records, int code)
      : TempFile("lesson", "#!/bin/sh\ncat <<'END'\n" + records + "END\nexit " + std::to_string(code) + "\n") {
    chmod(path.c_str(), 0755);
  }
};
std::string slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
}  // namespace

TEST_CASE("notebook: cells of the percent format") {
  const std::vector<Cell> cells = read_cells(lesson, "lesson.cpp");
  REQUIRE(cells.size() == 5);
  CHECK(cells[0].kind == Cell::Kind::markdown);
  CHECK(cells[0].source == "# Title & more\n\n## Part\n");
  CHECK(cells[1].source == "int twice(int x) { return 2 * x; }\n");
  CHECK(cells[1].marked_line == 0);
  CHECK(cells[2].kind == Cell::Kind::raw);
  CHECK(cells[3].marked_line == first_mark);
  CHECK(cells[4].marked_line == second_mark);
  const std::vector<Cell> two = read_cells("// %%\n\nint a;\n\n\n// %%\nint b;\n", "x.cpp");
  REQUIRE(two.size() == 2);
  CHECK(std::vector{two[0].first_line, two[0].last_line, two[1].first_line, two[1].last_line} == std::vector{3, 3, 7, 7});
  CHECK_THROWS_WITH(read_cells("int main() {}\n", "x.cpp"), Contains("x.cpp: no cell found"));
}

TEST_CASE("notebook: records") {
  const NotebookRun run = read_records(
      "early\n\x1e" "cell 17\na < b\n\x1e" "check ok it holds\n\x1etext \nmore\n\x1ehtml \n<svg/>\n\x1etext \n\x1e" "cell 21\n\x1e" "check failed it does not\n\x1e" "end 1 1\n");
  CHECK(run.finished);
  CHECK((run.held == 1 && run.failed == 1 && !run.good()));
  REQUIRE(run.cells.at(first_mark).size() == 4);
  CHECK(run.cells.at(0)[0].content == "early\n");
  CHECK(run.cells.at(first_mark)[1].content == "it holds");
  CHECK(run.cells.at(first_mark)[3].kind == Output::Kind::html);
  CHECK_FALSE(run.cells.at(second_mark)[0].holds);
  CHECK(read_records("\x1e" "error out of memory\n").error == "out of memory");
  for (const char* torn : {"\x1e", "\x1e\n", "\x1e" "check", "\x1e" "cell", "\x1e" "check \n", "\x1e" "cell 99999999999999\nx"}) CHECK_FALSE(read_records(torn).good());
}

TEST_CASE("report: outputs under their cells, everything escaped, a notebook with outputs") {
  const TempFile source("lesson.cpp", lesson);
  const Program program("\x1e" "cell 17\n1 < 2 & so\n\x1e" "check ok <it> holds\n\x1e" "cell 21\n\x1ehtml \n<svg id=\"s\"></svg>\n\x1etext \nlast\n\x1e" "end 1 0\n", 0);
  const std::string page = source.folder + "/page.html", book = source.folder + "/book.ipynb";
  const Result r = run_facet("report --notebook " + source.path + " --run " + program.path + " --out " + page + " --ipynb " + book);
  CHECK(r.code == 0);
  CHECK(r.err.empty());
  CHECK_THAT(r.out, Contains("1 checks hold, 0 do not"));
  const std::string html = slurp(page);
  CHECK_THAT(html, Contains("<title>Title &amp; more</title>") && Contains("1 checks hold") && Contains("<a href=\"#part\">Part</a>") &&
                       Contains("<li class=\"ok\">&lt;it&gt; holds</li>") && !Contains("NB_CELL") && !Contains("int main"));
  const size_t code = html.find("twice(<span class=\"n\">2</span>)"), text = html.find("1 &lt; 2 &amp; so"), second = html.find("print();"), svg = html.find("<svg id=\"s\">");
  CHECK((code < text && text < second && second < svg && svg != std::string::npos));
  const auto json = nlohmann::json::parse(slurp(book));
  REQUIRE(json["cells"].size() == 5);
  CHECK(json["cells"][2]["cell_type"] == "raw");
  CHECK(json["cells"][3]["outputs"][0]["text"] == "1 < 2 & so\n    ok  <it> holds\n");
  CHECK(json["cells"][4]["outputs"][0]["data"]["text/html"] == "<svg id=\"s\"></svg>\n");
}

TEST_CASE("report: a lesson that fails is a page in red and exit code 1") {
  const TempFile source("lesson.cpp", lesson);
  const std::string page = source.folder + "/page.html";
  const auto report = [&](const std::string& records, int code) {
    const Program program(records, code);
    return run_facet("report --notebook " + source.path + " --run " + program.path + " --out " + page);
  };
  CHECK(report("\x1e" "cell 17\n\x1e" "check failed no\n\x1e" "cell 21\n\x1e" "end 0 1\n", 1).code == 1);
  CHECK_THAT(slurp(page), Contains("1 of 1 checks do not hold") && Contains("<li class=\"failed\">no</li>"));
  const Result stopped = report("\x1e" "cell 17\n\x1e" "error shapes <a>\n", 1);
  CHECK(stopped.code == 1);
  CHECK_THAT(stopped.err, Contains("before its last cell: shapes <a>"));
  CHECK_THAT(slurp(page), Contains("The program stopped: shapes &lt;a&gt;"));
  // built from another version of the source
  CHECK_THAT(report("\x1e" "cell 18\n\x1e" "end 0 0\n", 0).err, Contains("has no NB_CELL there; build it again"));
  CHECK_THAT(report("\x1e" "cell 17\n\x1e" "end 0 0\n", 0).err, Contains(":21: this cell never ran"));
  CHECK(run_facet("report --notebook " + source.path + " --run " + source.folder + "/none --out " + page).code == 3);
}
