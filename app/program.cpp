#include "app/program.h"

#include <csignal>
#include <cstdlib>
#include <new>

#include "app/machine.h"
#include "app/version.h"
#include "tensor/error.h"
#include "tensor/io/durable.h"
#include "tensor/io/text.h"
#include "tensor/gpu/runtime.h"
#include "tensor/parallel.h"
#include "tensor/storage.h"

extern char** environ;

namespace facet::app {
namespace {

// "data make" before "data"; `used` counts the words of the name.
const Command* find_command(const std::vector<std::string>& args, size_t& used) {
  for (used = std::min<size_t>(2, args.size()); used > 0; --used) {
    std::string name = args[0];
    if (used == 2) name += " " + args[1];
    for (const Command& c : commands())
      if (c.name == name || (!c.alias.empty() && c.alias == name)) return &c;
  }
  return nullptr;
}

std::string list_commands(const std::string& family) {
  std::string out;
  size_t width = 0;
  for (const Command& c : commands()) width = std::max(width, c.name.size());
  for (const Command& c : commands())
    if (family.empty() || c.name.rfind(family + " ", 0) == 0)
      out += fmt::format("  {:<{}}{}{}\n", c.name, width + 2, c.summary, c.alias.empty() ? "" : " (also: " + c.alias + ")");
  return out;
}

[[noreturn]] void unknown_command(const std::vector<std::string>& args) {
  std::vector<std::string> names, family;
  for (const Command& c : commands()) {
    const std::string first = c.name.substr(0, c.name.find(' '));
    names.push_back(first);
    if (!c.alias.empty()) names.push_back(c.alias);
    if (first == args[0] && first != c.name) family.push_back(c.name.substr(first.size() + 1));
  }
  if (!family.empty()) {
    const std::string close = args.size() > 1 ? nearest(args[1], family) : "";
    fail(Kind::usage, "{} {} unknown{}", args[0], args.size() > 1 ? args[1] : "", 
         close.empty() ? fmt::format("; it takes {}", fmt::join(family, ", ")) : ", did you mean " + args[0] + " " + close + "?");
  }
  const std::string close = nearest(args[0], names);
  fail(Kind::usage, "command \"{}\" unknown{}", args[0],
       close.empty() ? "; facet --help lists them" : ", did you mean \"" + close + "\"?");
}

void print_overview(const std::string& family) {
  if (family.empty())
    fmt::print("facet {}: train and run Gemma models, from a small tensor library up\n\nusage: facet COMMAND [options]\n\n", version());
  fmt::print("commands:\n{}\nfacet COMMAND --help tells more.{}\n", list_commands(family),
             family.empty() ? " facet --version, facet env say what this is." : "");
}

// A misspelt variable would silently do nothing.
void warn_of_unknown_variables(Console& console) {
  std::vector<std::string> known{"FACET_TIER", "FACET_GPU", "FACET_GPU_DETERMINISTIC", "FACET_GPU_OVERLAP", "FACET_GPU_SYNC", "FACET_GPU_TUNE", "FACET_GPU_WORKSPACE_MB", "FACET_EMULATOR"};
  bool collected = false;
  for (char** e = environ; *e; ++e) {
    const std::string name = std::string(*e).substr(0, std::string(*e).find('='));
    if (name.rfind("FACET_", 0) != 0) continue;
    if (!collected) {
      for (const Command& c : commands()) {
        const auto invocation = c.make();
        for (const Option& o : invocation->options().list()) known.push_back(o.env());
      }
      collected = true;
    }
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    const std::string close = nearest(name, known);
    console.warn("{} in the environment is no setting of any command{}", name, close.empty() ? "" : ", did you mean " + close + "?");
  }
}

// Commands that work on files and texts; asking them for a GPU is a mistake worth hearing of.
void check_device(const std::string& command) {
  for (const char* name : {"init", "convert", "merge", "data", "report", "inspect", "check tokenizer"})
    if (command.starts_with(name)) fail(Kind::usage, "--device cuda: {} computes on the CPU; leave --device out", command);
  gpu::device();
}

int run_command(const std::vector<std::string>& args) {
  if (args.empty() || args[0] == "--help" || args[0] == "-h" || args[0] == "help") {
    print_overview("");
    return 0;
  }
  if (args[0] == "--version") {
    fmt::print("facet {}\n", version());
    return 0;
  }
  size_t used = 0;
  const Command* command = find_command(args, used);
  if (!command) {
    const bool help = args.size() < 2 || args[1] == "--help" || args[1] == "-h";
    if (help && !list_commands(args[0]).empty()) {
      print_overview(args[0]);
      return args.size() < 2 ? static_cast<int>(Kind::usage) : 0;
    }
    unknown_command(args);
  }
  const auto invocation = command->make();
  invocation->options().resolve({args.begin() + static_cast<std::ptrdiff_t>(used), args.end()});
  const Common& common = invocation->common();
  if (common.help) {
    fmt::print("{}", invocation->options().help(command->summary, command->details, common.verbose));
    return 0;
  }
  if (common.device == "cuda") check_device(command->name);
  Console console(common.quiet, common.verbose, common.json);
  warn_of_unknown_variables(console);
  set_threads(choose_threads(common.threads).count);
  return invocation->run(console);
}

}  // namespace

Device Common::where() const {
  if (device == "cpu") return Device::cpu;
  gpu::device();
  return Device::gpu;
}

void use_threads(const std::string& asked, Console& console) {
  const Threads t = choose_threads(asked);
  set_threads(t.count);
  console.detail("threads: {} ({})", t.count, t.why);
}

DType weight_dtype(const std::string& name) { return name == "bf16" ? DType::bf16 : name == "f64" ? DType::f64 : DType::f32; }

void Common::declare_common(Options& o) {
  o.begin_common();
  o.add("config", &config, "YAML file with any of these options").letter('c').metavar("FILE").call_only();
  o.add("set", &set, "set any key, e.g. train.lr=1e-3 (repeatable)").metavar("KEY=VALUE").verbatim().call_only();
  o.add("seed", &seed, "same seed, same bits").range(0, 9e15);
  o.add("threads", &threads, "CPU threads, or auto; results do not depend on it").metavar("N").check([](const std::string& v) {
    const bool good = v == "auto" || (!v.empty() && v.size() < 5 && v.find_first_not_of("0123456789") == std::string::npos && v != "0");
    return good ? "" : "is neither auto nor a number from 1 to 9999";
  });
  o.add("device", &device, "where to compute").choices({"cpu", "cuda"});
  o.add("dtype", &dtype, "what weights are kept in; auto = as stored").choices({"auto", "f32", "bf16", "f64"}).alias({"precision"});
  o.add("quiet", &quiet, "results and warnings only").letter('q').transient();
  o.add("verbose", &verbose, "say more").letter('v').transient();
  o.add("json", &json, "print the result as JSON").transient();
  o.add("offline", &offline, "accepted for habit: nothing is ever downloaded").transient();
  o.add("help", &help, "this page").letter('h').call_only();
}

int run_program(const std::vector<std::string>& args) {
  std::signal(SIGXFSZ, SIG_IGN);  // past a limit on file sizes write() then says so, and the message names the file
  try {
    return run_command(args);
  } catch (const Error& e) {
    say(fmt::format("facet: {}\n", e.what()));
    return e.exit_code();
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "facet: out of memory; {} in use by tensors\n", human_bytes(pool_stats().live_bytes));
    return static_cast<int>(Kind::memory);
  } catch (const std::exception& e) {
    say(fmt::format("facet: unexpected: {}. This is a defect: please report this line, the command and what `facet env` prints\n", e.what()));
    return static_cast<int>(Kind::check);
  } catch (...) {
    say("facet: unexpected: an unknown exception. This is a defect: please report the command and what `facet env` prints\n");
    return static_cast<int>(Kind::check);
  }
}

}  // namespace facet::app
