// A command of the program: a struct of settings that declares its options, and a function that runs on it.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "app/console.h"
#include "app/options.h"
#include "tensor/view.h"

namespace facet::app {

/// Settings every command has.
struct Common {
  std::string config, threads = "auto", device = "cpu", dtype = "auto";
  Values set;
  int64_t seed = 1;
  bool quiet = false, verbose = false, json = false, offline = false, help = false;
  void declare_common(Options&);
  /// Of --device. Throws Error(Kind::environment) with the cause when there is no GPU to compute on.
  Device where() const;
};

/// What --dtype names; f32 for "auto", where there is no file that decides.
DType weight_dtype(const std::string& name);
/// Applies --threads and says what was chosen with -v.
void use_threads(const std::string& asked, Console&);

/// One invocation: settings, their options (for the resolved config), and where output goes.
struct Invocation {
  virtual ~Invocation() = default;
  virtual Options& options() = 0;
  virtual const Common& common() const = 0;
  virtual int run(Console&) = 0;  ///< the exit code
};

struct Command {
  std::string name;     ///< "env", "data make"
  std::string summary;  ///< one line for the list of commands
  std::string details;  ///< more for its own help page: what it writes, an example
  std::function<std::unique_ptr<Invocation>()> make;
  std::string alias;    ///< another name, or ""
};

/// Command from a settings struct derived from Common, with `void declare(Options&)` and, for run, a function
/// int(S&, Options&, Console&).
template <class S>
Command command(std::string name, std::string summary, std::string details, int (*run)(S&, Options&, Console&)) {
  struct Bound : Invocation {
    Bound(const std::string& name, int (*run)(S&, Options&, Console&)) : list(name), body(run) {
      settings.declare(list);
      settings.declare_common(list);
    }
    Options& options() override { return list; }
    const Common& common() const override { return settings; }
    int run(Console& console) override { return body(settings, list, console); }
    S settings;
    Options list;
    int (*body)(S&, Options&, Console&);
  };
  auto make = [name, run]() -> std::unique_ptr<Invocation> { return std::make_unique<Bound>(name, run); };
  return {std::move(name), std::move(summary), std::move(details), std::move(make), ""};
}

}  // namespace facet::app
