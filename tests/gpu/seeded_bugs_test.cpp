// Does the emulator find what it is there for? Each mistake of seeded_bugs.cu must be found by the instruments that its row names, in the way
// the row names; no instrument may complain about a correct twin. Where a row says `unseen`, the mistake gives right numbers: that is what
// the sanitizer builds are for, and the row's other columns must catch it.
#include <sys/wait.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <regex>
#include <string>
#include <vector>

namespace {

enum class Seen { unseen, numbers, error, address, race, closed };  // closed: the program ends at an access to memory that is closed to it
using enum Seen;

constexpr int instruments = 7;
struct Instrument {
  const char* program;                // suffix: which build
  std::vector<std::string> settings;  // tried in turn until one of them sees something
};
const std::vector<std::string> seeds = {"random,seed=1", "random,seed=2", "random,seed=3", "random,seed=4"};
const Instrument instrument[instruments] = {
    {"", {"forward"}}, {"", {"reverse"}}, {"", seeds}, {"", {"forward,lax"}}, {"_asan", {"forward"}}, {"_tsan", {"forward", "eager"}}, {"_tsan", {"between_blocks"}},
};
struct Row {
  const char* name;
  Seen seen[instruments];
  const char* line;  // text of the guilty line, which the emulator's report or the sanitizer's stack names
};
// clang-format off
const Row table[] = {
    //                               forward  reverse  random   lax      asan     tsan     between blocks
    {"missing_barrier",              {numbers, numbers, numbers, numbers, numbers, race,    race},
     "y[base + threadIdx.x] = tile[threads - 1 - threadIdx.x]"},
    {"missing_barrier_before_reuse", {numbers, numbers, numbers, numbers, numbers, race,    race},
     "tile[threadIdx.x] = x[base + threadIdx.x] * static_cast<float>(round)"},
    {"full_mask_of_few",             {error,   error,   error,   error,   error,   error,   error},
     "v = shfl_xor(v, 4, 8)"},
    {"barrier_in_branch",            {error,   error,   error,   unseen,  error,   race,    race},
     "if (broken) sync_block()"},
    {"uninitialised_shared",         {numbers, numbers, numbers, numbers, numbers, numbers, numbers}, ""},
    {"one_past_the_end",             {unseen,  unseen,  unseen,  unseen,  address, unseen,  unseen},
     "next = t[threadIdx.x + 1]"},
    {"not_atomic",                   {unseen,  unseen,  unseen,  unseen,  unseen,  unseen,  race},
     "*count += 1"},
    {"tile_reloaded",                {numbers, numbers, numbers, numbers, numbers, race,    race},
     "keys[threadIdx.x] ="},
    {"missing_copy_wait",            {numbers, numbers, numbers, numbers, numbers, race,    race},
     "y[base + threadIdx.x] = tile[threads - 1 - threadIdx.x]"},
    {"double_buffer_too_early",      {unseen,  unseen,  numbers, unseen,  unseen,  race,    unseen},
     "tile[part & 1][threadIdx.x ^ 32]"},
    {"missing_fence_before_ticket",  {unseen,  unseen,  unseen,  unseen,  unseen,  unseen,  race},
     "sum += y[int64_t{part} * threads + threadIdx.x]"},
    {"missing_fence_behind_ticket",  {unseen,  unseen,  unseen,  unseen,  unseen,  unseen,  race},
     "sum += y[int64_t{part} * threads + threadIdx.x]"},
    {"read_before_wait",             {closed,  closed,  closed,  closed,  unseen,  race,    race},
     "if (broken) v = x[n - 1 - i]"},
    {"leaves_before_wait",           {error,   error,   error,   error,   error,   error,   error}, ""},
    {"ticket_before_wait",           {error,   error,   error,   error,   error,   error,   error}, ""},
};
// clang-format on

struct Result {
  int code;
  std::string output;
};
Result run(const char* suffix, const char* name, bool broken, const std::string& settings) {
  const std::string command = "FACET_EMULATOR=" + settings + " ASAN_OPTIONS=exitcode=67 TSAN_OPTIONS=exitcode=66 " +
                              FACET_SEEDED_BUGS + suffix + " " + name + (broken ? " broken" : " correct") + " 2>&1";
  std::FILE* p = popen(command.c_str(), "r");
  REQUIRE(p);
  Result r;
  for (int c; (c = std::fgetc(p)) != EOF;) r.output += static_cast<char>(c);
  const int status = pclose(p);
  r.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return r;
}
int code_of(Seen s) {
  switch (s) {
    case unseen: return 0;
    case numbers: return 1;
    case error: return 3;
    case race: return 66;
    case address: return 67;
    case closed: return 128 + SIGSEGV;
  }
  return -1;
}

// The lines of seeded_bugs.cu that an output names.
std::string named_lines(const std::string& output) {
  static const std::vector<std::string> source = [] {
    std::vector<std::string> lines;
    std::ifstream file(FACET_SEEDED_SOURCE);
    for (std::string line; std::getline(file, line);) lines.push_back(line);
    return lines;
  }();
  static const std::regex place(R"(seeded_bugs\.cu:(\d+))");
  std::string named;
  for (std::sregex_iterator i(output.begin(), output.end(), place), end; i != end; ++i)
    if (const size_t n = std::stoul((*i)[1]); n <= source.size()) named += source[n - 1] + "\n";
  return named;
}
}  // namespace

TEST_CASE("seeded bugs: each is found, by the instruments it should be found by") {
  for (const Row& row : table)
    for (int i = 0; i < instruments; ++i) {
      Result result{0, ""};
      for (const std::string& settings : instrument[i].settings)
        if (result.code == 0) result = run(instrument[i].program, row.name, true, settings);
      INFO(row.name << instrument[i].program << ", " << instrument[i].settings.back() << ": " << result.output);
      CHECK(result.code == code_of(row.seen[i]));
      if (result.code == code_of(closed)) CHECK_THAT(result.output, Catch::StartsWith(row.name) && Catch::Contains("memory before wait_for_previous()"));
      else if (result.code >= code_of(error)) CHECK_THAT(named_lines(result.output), Catch::Contains(row.line));
    }
}

TEST_CASE("seeded bugs: no false alarm on the correct twins") {
  for (const Row& row : table)
    for (const Instrument& i : instrument)
      for (const std::string& settings : i.settings) {
        const Result result = run(i.program, row.name, false, settings);
        INFO(row.name << i.program << ", " << settings << ": " << result.output);
        CHECK(result.code == 0);
      }
}
