// Who may include whom, read from the sources themselves.
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>

namespace {
namespace fs = std::filesystem;
using Names = std::set<std::string>;

// A room may include itself and what is listed.
const std::map<std::string, Names> allowed = {
    {"tensor", {}},
    {"autograd", {"tensor"}},
    {"nn", {"autograd", "tensor"}},
    {"optim", {"autograd", "tensor"}},
    {"data", {"tensor"}},
    {"models", {"nn", "autograd", "tensor"}},
    {"infer", {"nn", "data", "autograd", "tensor"}},
    {"train", {"infer", "optim", "nn", "data", "autograd", "tensor"}},
};
// Libraries that only these places see (a folder ends in "/").
const std::map<std::string, Names> outsiders = {
    {"omp.h", {"tensor/cpu/parallel.cpp"}},
    {"Eigen/", {"tensor/"}},
    {"sentencepiece", {"data/"}},
};
// Too heavy for headers. tensor/io/json.h is the one door to the JSON library and as heavy as what it includes.
const Names heavy = {"nlohmann/json.hpp", "tensor/io/json.h", "CLI/", "yaml-cpp/", "Eigen/", "sentencepiece"};

std::string read(const fs::path& p) {
  std::ostringstream s;
  s << std::ifstream(p).rdbuf();
  return s.str();
}
bool starts(const std::string& s, const std::string& with) { return s.rfind(with, 0) == 0; }

struct Source {
  std::string path;  // from the repository's root
  std::vector<std::string> includes;
};
std::vector<std::string> includes_of(const std::string& text) {
  static const std::regex line(R"re((?:^|\n)[ \t]*#[ \t]*include[ \t]*[<"]([^>"]+)[>"])re");
  std::vector<std::string> r;
  for (std::sregex_iterator i(text.begin(), text.end(), line), end; i != end; ++i) r.push_back((*i)[1]);
  return r;
}
std::vector<Source> sources() {
  std::vector<Source> all;
  for (const auto& [room, below] : allowed) {
    if (!fs::exists(fs::path(FACET_SOURCE) / room)) continue;  // not written yet
    for (const auto& e : fs::recursive_directory_iterator(fs::path(FACET_SOURCE) / room)) {
      const std::string ext = e.path().extension();
      if (ext == ".h" || ext == ".cpp") all.push_back({fs::relative(e.path(), FACET_SOURCE), includes_of(read(e.path()))});
    }
  }
  return all;
}

// What is wrong with one source; empty when all is well.
std::vector<std::string> violations(const Source& s) {
  std::vector<std::string> r;
  const std::string room = s.path.substr(0, s.path.find('/'));
  for (const std::string& i : s.includes) {
    const std::string target = i.substr(0, i.find('/'));
    const bool of_ours = i.find('/') != std::string::npos && (allowed.count(target) || target == "app" || target == "tests");
    if (of_ours && target != room && !allowed.at(room).count(target)) r.push_back(s.path + " includes " + i + ": " + room + " may not see " + target);
    for (const auto& [library, places] : outsiders) {
      if (!starts(i, library)) continue;
      bool ok = false;
      for (const std::string& p : places) ok |= p.back() == '/' ? starts(s.path, p) : s.path == p;
      if (!ok) r.push_back(s.path + " includes " + i);
    }
    if (s.path.ends_with(".h") && s.path != "tensor/io/json.h")
      for (const std::string& h : heavy)
        if (starts(i, h)) r.push_back(s.path + ": " + i + " is too heavy for a header");
  }
  return r;
}
}  // namespace

TEST_CASE("layers: every include follows the arrows") {
  const std::vector<Source> all = sources();
  REQUIRE(all.size() > 20);
  for (const Source& s : all)
    for (const std::string& v : violations(s)) FAIL_CHECK(v);
}

TEST_CASE("layers: the reader notices a wrong arrow") {
  CHECK(violations({"nn/linear.cpp", includes_of("#include \"optim/adamw.h\"\n")}).size() == 1);
  CHECK(violations({"tensor/tensor.h", includes_of("\n  # include \"autograd/tape.h\"\n")}).size() == 1);
  CHECK(violations({"train/sft.cpp", includes_of("#include \"models/gemma/config.h\"")}).size() == 1);
  CHECK(violations({"tensor/cpu/copy.cpp", includes_of("#include <omp.h>\n")}).size() == 1);
  CHECK(violations({"nn/a.h", includes_of("#include <Eigen/Core>\n")}).size() == 2);
  CHECK(violations({"nn/a.cpp", includes_of("#include \"tensor/tensor.h\"\n#include <vector>\n")}).empty());
}

TEST_CASE("layers: every kernel has a test that mentions it") {
  std::string tests;
  for (const auto& e : fs::recursive_directory_iterator(fs::path(FACET_SOURCE) / "tests"))
    if (e.path().extension() == ".cpp") tests += read(e.path());
  int kernels = 0;
  for (const auto& e : fs::directory_iterator(fs::path(FACET_SOURCE) / "tensor/kernels")) {
    if (e.path().extension() != ".h") continue;
    ++kernels;
    if (!std::regex_search(tests, std::regex("\\b" + e.path().stem().string() + "\\b")))
      FAIL_CHECK("no test mentions " + fs::relative(e.path(), FACET_SOURCE).string());
  }
  CHECK(kernels > 3);
}

TEST_CASE("layers: every header of nn declares something that a test names") {
  std::string tests;
  for (const auto& e : fs::recursive_directory_iterator(fs::path(FACET_SOURCE) / "tests"))
    if (e.path().extension() == ".cpp") tests += read(e.path());
  static const std::regex type(R"((?:^|\n)(?:struct|class|enum class) (\w+)[^;{]*\{)");
  int headers = 0;
  for (const auto& e : fs::directory_iterator(fs::path(FACET_SOURCE) / "nn")) {
    if (e.path().extension() != ".h") continue;
    ++headers;
    const std::string text = read(e.path());
    bool named = false;
    for (std::sregex_iterator i(text.begin(), text.end(), type), end; i != end; ++i) named |= std::regex_search(tests, std::regex("\\b" + (*i)[1].str() + "\\b"));
    if (!named) FAIL_CHECK("no test names a type of nn/" + e.path().filename().string());
  }
  CHECK(headers > 3);
}

TEST_CASE("layers: every lesson checks, draws, and names a paper and the pages of its kernels") {
  static const std::regex lesson(R"(\d\d[a-z]?_\w+\.cpp)"), picture(R"(nb::(plot|bars|heatmap|graph)\()"), page(R"((tensor/kernels|data)/\w+\.h)");
  int lessons = 0;
  for (const auto& e : fs::directory_iterator(fs::path(FACET_SOURCE) / "notebooks-cpp")) {
    const std::string name = e.path().filename().string();
    if (!std::regex_match(name, lesson)) continue;
    ++lessons;
    const std::string text = read(e.path());
    INFO(name);
    CHECK(text.find("nb::check(") != std::string::npos);
    CHECK(std::regex_search(text, picture));
    CHECK(text.find("](https://arxiv.org/abs/") != std::string::npos);
    int pages = 0;
    for (std::sregex_iterator i(text.begin(), text.end(), page), end; i != end; ++i, ++pages) {
      INFO((*i).str());
      CHECK(fs::exists(fs::path(FACET_SOURCE) / (*i).str()));
    }
    CHECK(pages > 0);
  }
  CHECK(lessons >= 16);
}

TEST_CASE("layers: every page of contracts is run by a test of operations") {
  std::string tests;
  for (const auto& e : fs::directory_iterator(fs::path(FACET_SOURCE) / "tests/ops"))
    if (e.path().extension() == ".cpp") tests += read(e.path());
  const std::string list = read(fs::path(FACET_SOURCE) / "tests/contracts/contracts.cpp");
  int pages = 0;
  for (const auto& e : fs::directory_iterator(fs::path(FACET_SOURCE) / "tests/contracts/ops")) {
    if (e.path().extension() != ".cpp") continue;
    ++pages;
    const std::string page = e.path().stem().string();
    if (tests.find("check_contracts(\"" + page + "\")") == std::string::npos) FAIL_CHECK("no test in tests/ops runs the contracts of " + page);
    if (list.find("{\"" + page + "\",") == std::string::npos) FAIL_CHECK("tests/contracts/contracts.cpp does not list " + page);
  }
  CHECK(pages > 3);
}

TEST_CASE("layers: every bad input that is listed is in the test that is named, with its message") {
  std::istringstream lines(read(fs::path(FACET_SOURCE) / "tests/bad_input.txt"));
  std::string row;
  Names rows, without;
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line[0] == '#') continue;
    INFO(line);
    if (line[0] != ' ') {
      CHECK(rows.insert(row = line).second);
      without.insert(row);
      continue;
    }
    without.erase(row);
    std::smatch m;
    if (std::regex_match(line, std::regex("  not yet: .+"))) continue;
    REQUIRE(std::regex_match(line, m, std::regex(R"re(  (\w+) \| (.+?) \| (.+))re")));
    // The text of the case: from its name to the next case.
    std::string body;
    for (const auto& e : fs::directory_iterator(fs::path(FACET_SOURCE) / "tests" / m[1].str())) {
      const std::string all = e.path().extension() == ".cpp" ? read(e.path()) : "";
      const size_t at = all.find("\nTEST_CASE(\"" + m[2].str() + "\"");
      if (at != all.npos) body = all.substr(at, all.find("\nTEST_CASE(", at + 1) - at);
    }
    CHECK_FALSE(body.empty());
    CHECK(body.find(m[3]) != body.npos);
  }
  for (const std::string& name : without) FAIL_CHECK("no test holds: " + name);
  CHECK(rows.size() == 32);
}

TEST_CASE("layers: every flag that a message names is an option") {
  Names options = {"help", "config", "set", "preset", "version", "records"};  // the last is a lesson's, which are programs of their own
  std::vector<std::pair<std::string, std::string>> texts;  // file, what stands between quotes
  for (const std::string room : {"app", "data", "infer", "models", "nn", "optim", "tensor", "train"})
    for (const auto& e : fs::recursive_directory_iterator(fs::path(FACET_SOURCE) / room)) {
      const std::string ext = e.path().extension();
      if (ext != ".h" && ext != ".cpp") continue;
      std::istringstream lines(read(e.path()));
      for (std::string line; std::getline(lines, line);) {
        if (line.find("--") == line.npos && line.find(".a") == line.npos) continue;
        static const std::regex option(R"re(\.add\("([a-z0-9-]+)")re"), alias(R"re(\.alias\(\{([^}]*)\})re"), quoted(R"re("((?:[^"\\]|\\.)*)")re");
        for (std::sregex_iterator i(line.begin(), line.end(), option), end; i != end; ++i) options.insert((*i)[1]);
        for (std::sregex_iterator i(line.begin(), line.end(), alias), end; i != end; ++i) {
          const std::string names = (*i)[1];
          for (std::sregex_iterator n(names.begin(), names.end(), quoted); n != end; ++n) options.insert((*n)[1]);
        }
        if (line.find_first_not_of(' ') == line.find("//")) continue;
        for (std::sregex_iterator i(line.begin(), line.end(), quoted), end; i != end; ++i)
          texts.emplace_back(fs::relative(e.path(), FACET_SOURCE), (*i)[1]);
      }
    }
  CHECK(options.size() > 200);
  size_t named = 0;
  for (const auto& [file, text] : texts) {
    static const std::regex flag(R"re((?:^|[^\w-])--(no-)?([a-z](?:[a-z0-9-]*[a-z0-9])?)(?![a-z0-9-]))re");
    if (text.find(".py ") != text.npos) continue;  // another program's
    for (std::sregex_iterator i(text.begin(), text.end(), flag), end; i != end; ++i, ++named)
      if (!options.count((*i)[2]) && !options.count((*i)[1].str() + (*i)[2].str())) FAIL_CHECK(file + ": --" + (*i)[1].str() + (*i)[2].str() + " is no option: " + text);
  }
  CHECK(named > 150);
}

TEST_CASE("layers: every folder of the product has its page") {
  Names folders = {"bench", "cmake", "tests", "tools"};
  for (const std::string room : {"app", "autograd", "data", "infer", "models", "nn", "notebooks-cpp", "optim", "tensor", "train"})
    for (const auto& e : fs::recursive_directory_iterator(fs::path(FACET_SOURCE) / room))
      if (const std::string ext = e.path().extension(); ext == ".h" || ext == ".cpp") folders.insert(fs::relative(e.path().parent_path(), FACET_SOURCE));
  folders.erase("tensor/gpu/cuda");  // two files, told one folder up
  CHECK(folders.size() > 20);
  for (const std::string& f : folders)
    if (!fs::exists(fs::path(FACET_SOURCE) / f / "README.md")) FAIL_CHECK(f + " has no README.md");
}

TEST_CASE("layers: every variable of the environment that is read is known to the program and told in a README") {
  const std::string program = read(fs::path(FACET_SOURCE) / "app/program.cpp");
  const std::string told = read(fs::path(FACET_SOURCE) / "tensor/gpu/README.md") + read(fs::path(FACET_SOURCE) / "tensor/cpu/README.md");
  Names variables;
  for (const auto& [room, below] : allowed)
    for (const auto& e : fs::recursive_directory_iterator(fs::path(FACET_SOURCE) / room)) {
      if (e.path().extension() != ".cpp") continue;
      const std::string text = read(e.path());
      static const std::regex reading(R"re(getenv\("(FACET_[A-Z_]+)"\))re");
      for (std::sregex_iterator i(text.begin(), text.end(), reading), end; i != end; ++i) variables.insert((*i)[1]);
    }
  CHECK(variables.size() == 8);
  for (const std::string& v : variables) {
    INFO(v);
    CHECK(program.find('"' + v + '"') != program.npos);
    CHECK(told.find('`' + v) != told.npos);
  }
}

TEST_CASE("layers: a tier's objects leak no symbol the linker could pick for another machine") {
  // Weak (W, V) and unique (u) symbols of code compiled for AVX2 or AVX-512: the linker keeps one copy for every CPU.
  std::vector<fs::path> objects;
  for (const char* tier : {"facet_tensor_avx2.dir", "facet_tensor_avx512.dir"}) {
    // Only the objects' folders: elsewhere in the build tree other tests make and remove files meanwhile.
    const fs::path folder = fs::path(FACET_BINARY) / "CMakeFiles" / tier;
    if (!fs::exists(folder)) continue;
    for (const auto& e : fs::recursive_directory_iterator(folder))
      if (e.path().extension() == ".o") objects.push_back(e.path());
  }
  for (const fs::path& object : objects) {
    const fs::path list = fs::path(FACET_BINARY) / "layers-nm.txt";
    REQUIRE(std::system(("nm -C --defined-only '" + object.string() + "' > '" + list.string() + "'").c_str()) == 0);
    std::istringstream lines(read(list));
    for (std::string line; std::getline(lines, line);) {
      static const std::regex symbol(R"(^[0-9a-f]+ ([A-Za-z]) (.*)$)");
      std::smatch m;
      if (!std::regex_match(line, m, symbol)) continue;
      const char kind = m[1].str()[0];
      const std::string name = m[2];
      if (name.rfind("DW.ref.", 0) == 0) continue;  // a pointer for the unwinder, the same in every object
      const bool own = name.find("facet::cpu::avx2::") != std::string::npos || name.find("facet::cpu::avx512::") != std::string::npos;
      if ((kind == 'W' || kind == 'V' || kind == 'u') && !own) FAIL_CHECK(object.filename().string() + " defines " + name);
    }
  }
  if (FACET_TIERS) CHECK(!objects.empty());
}
