// A module lists its members once, in visit(); names, loading, saving, freezing, counting, printing and optimizer groups follow
// from that list. Names are dotted paths and are those of the Hugging Face checkpoint without its leading "model.".
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "autograd/parameter.h"

namespace facet {

class Visitor;

struct Module {
  virtual ~Module() = default;
  virtual void visit(Visitor&) = 0;
  /// For printing: "Linear 96 -> 256"; empty: only the member's name.
  virtual std::string describe() const { return {}; }
};

/// Walks a tree of modules. Override parameter(), and enter()/leave() where the tree itself matters.
class Visitor {
 public:
  virtual ~Visitor() = default;
  void operator()(const std::string& name, Parameter& p) { parameter(path_ + name, p); }
  void operator()(const std::string& name, Module& m);
  template <class M>
  void operator()(const std::string& name, std::vector<M>& list) {
    for (size_t i = 0; i < list.size(); ++i) (*this)(name + "." + std::to_string(i), list[i]);
  }
  /// Optional members: absent ones are not listed.
  template <class M>
  void operator()(const std::string& name, std::unique_ptr<M>& m) {
    if (m) (*this)(name, *m);
  }

  virtual void parameter(const std::string& path, Parameter&) = 0;
  virtual void enter(const std::string& /*path*/, Module&) {}
  virtual void leave(const std::string& /*path*/, Module&) {}
  /// Of layers that read one x together (q, k and v, say), which are listed each by itself, too.
  virtual void together(std::initializer_list<Module*>) {}

 private:
  std::string path_;
};

/// All parameters in visiting order; each one's `name` is set to its path. A parameter listed twice (tied) appears once.
std::vector<Parameter*> parameters(Module&);
/// The same as (name, value) pairs: of all, or of those that train.
std::vector<std::pair<std::string, Tensor>> named_values(Module&, bool only_training = false);
/// Elements in all parameters, or in those that train.
int64_t count_parameters(Module&, bool only_training = false);
/// Switches training on or off for parameters that the pattern names: one, or all of a module ("layers.0.mlp"); `*` stands for any run of
/// characters, a negative number for a count from the end ("layers.-1": the last). Returns how many matched.
int set_trains(Module&, const std::string& pattern, bool on);
bool matches(const std::string& pattern, const std::string& name);
/// The tree, one line a module: name, description, shapes, counts.
std::string to_string(Module&);

}  // namespace facet
