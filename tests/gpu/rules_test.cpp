// The rules at the top of tensor/gpu/device.h, read from the sources: what compiles on one side only, or hides from the emulator.
#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {
namespace fs = std::filesystem;

std::string without_comments(std::string s) {
  static const std::regex comment(R"(//[^\n]*|/\*[^*]*\*+(?:[^/*][^*]*\*+)*/)");
  std::string r;
  size_t at = 0;
  for (std::sregex_iterator i(s.begin(), s.end(), comment), end; i != end; ++i) {
    const auto begin = static_cast<size_t>(i->position());
    r += s.substr(at, begin - at);
    for (char c : i->str())
      if (c == '\n') r += c;  // keeps the line numbers
    at = begin + i->str().size();
  }
  return r + s.substr(at);
}

struct Rule {
  std::regex pattern;
  const char* why;
};
const char* const narrow_product = "a 32-bit product: write int64_t{blockIdx.x} * n";
const std::vector<Rule> rules = {
    {std::regex("<<<"), "start kernels with launch() (tensor/gpu/launch.h)"},
    {std::regex(R"(\basm\b)"), "PTX belongs into tensor/gpu/device_cuda.h"},
    {std::regex(R"(\batomic(Add|Sub|Max|Min|Exch|CAS|And|Or|Xor|Inc|Dec)\w*\b)"), "atomics: only those of tensor/gpu/device.h"},
    {std::regex(R"(\b(blockIdx|blockDim|gridDim)\.[xyz]\s*\*(?!\s*(static_cast<int64_t>|int64_t\{)))"), narrow_product},
    {std::regex(R"(#\s*include\s*[<"](cuda|mma\.h|cooperative_groups|cub/|thrust/|vector_types))"), "no header of CUDA's"},
    {std::regex(R"(\b(cuda|cu)[A-Z]\w*\s*\()"), "the runtime is behind tensor/gpu/runtime.h"},
};
// Every other word with two underscores is the compiler's or CUDA's own.
const std::set<std::string> language = {"__global__", "__device__", "__host__", "__launch_bounds__", "__forceinline__", "__restrict__", "__CUDACC__", "__has_include"};

/// Broken rules, each with its line.
std::vector<std::string> violations(const std::string& name, const std::string& source) {
  const std::string text = without_comments(source);
  std::vector<std::string> r;
  const auto add = [&](ptrdiff_t position, const std::string& what, const std::string& why) {
    const auto line = 1 + std::count(text.begin(), text.begin() + position, '\n');
    r.push_back(name + ":" + std::to_string(line) + ": " + what + ": " + why);
  };
  for (const Rule& rule : rules)
    for (std::sregex_iterator i(text.begin(), text.end(), rule.pattern), end; i != end; ++i) add(i->position(), i->str(), rule.why);
  // n * blockIdx.x, unless n says that it has 64 bits
  static const std::regex product(R"(\*\s*(blockIdx|blockDim|gridDim)\.[xyz])"), wide(R"((static_cast<int64_t>\([^()]*\)|int64_t\{[^{}]*\})\s*$)");
  for (std::sregex_iterator i(text.begin(), text.end(), product), end; i != end; ++i) {
    const auto from = static_cast<size_t>(std::max<ptrdiff_t>(0, i->position() - 80));
    if (!std::regex_search(text.substr(from, static_cast<size_t>(i->position()) - from), wide)) add(i->position(), i->str(), narrow_product);
  }
  static const std::regex reserved(R"(\b__\w+)");
  for (std::sregex_iterator i(text.begin(), text.end(), reserved), end; i != end; ++i)
    if (!language.count(i->str()) && i->str().rfind("__builtin_", 0) != 0) add(i->position(), i->str(), "tensor/gpu/device.h has the wrapper, or needs one");
  return r;
}
std::vector<std::string> violations(const fs::path& file) {
  std::ostringstream s;
  s << std::ifstream(file).rdbuf();
  return violations(fs::relative(file, FACET_SOURCE).string(), s.str());
}
}  // namespace

TEST_CASE("rules: kernels keep those of tensor/gpu/device.h") {
  int kernels = 0;
  for (const auto& e : fs::directory_iterator(fs::path(FACET_SOURCE) / "tensor/gpu")) {
    const fs::path ext = e.path().extension();
    kernels += ext == ".cu";
    if (ext != ".cu" && (ext != ".h" || e.path().filename() == "device_cuda.h")) continue;
    for (const std::string& v : violations(e.path())) FAIL_CHECK(v);
  }
  CHECK(kernels > 10);
}

TEST_CASE("rules: the reader notices each of them") {
  const auto broken = [](const char* source) { return violations("x.cu", source).size(); };
  CHECK(broken("void f() { kernel<<<1, 2>>>(x); }") == 1);
  CHECK(broken("__global__ void k() { __shared__ float tile[32]; }") == 1);
  CHECK(broken("  __syncthreads();\n  __syncwarp();") == 2);
  CHECK(broken("v += __shfl_xor_sync(0xffffffffu, v, 16);") == 1);
  CHECK(broken("atomicAdd(p, 1); atomicCAS(p, 0, 1);") == 2);
  CHECK(broken("asm volatile(\"bar.sync 0;\");") == 1);
  CHECK(broken("const int i = blockIdx.x * blockDim.x + threadIdx.x;") >= 1);
  CHECK(broken("for (int64_t i = a; i < n; i += gridDim.x * 256)") == 1);
  CHECK(broken("const unsigned row = rows * blockIdx.y;") == 1);
  CHECK(broken("#include <cuda_bf16.h>\n#include \"mma.h\"") == 2);
  CHECK(broken("cudaMalloc(&p, n);") == 1);
  CHECK(broken("const float x = __ldg(p) + __expf(y);") == 2);
  CHECK(broken("// __syncthreads() is what sync_block() becomes\n/* asm\n <<< */") == 0);
  CHECK(broken("const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;") == 0);
  CHECK(broken("i += static_cast<int64_t>(blockIdx.y) * blockDim.x + blockIdx.x * int64_t{threads};") == 0);
  CHECK(broken("__global__ void __launch_bounds__(256) k(const float* __restrict__ x) { sync_block(); atomic_add(p, 1); }") == 0);
  CHECK(violations("x.cu", "/* a\n b */\n\nasm(\"\");").at(0).rfind("x.cu:4: asm", 0) == 0);
}
