#include "autograd/scopes.h"

#include <algorithm>
#include <utility>

#include "autograd/anomaly.h"

namespace facet {
namespace {

const ModuleName& part_of(const ModuleName* parent, const char* part, int64_t index, const std::source_location& where) {
  thread_local const ModuleName root;
  const ModuleName& in = parent ? *parent : root;
  const auto same = [&](const auto& m) {
    return m->part == part && m->index == index && m->where.line() == where.line() && m->where.file_name() == where.file_name();
  };
  const auto known = std::find_if(in.inside.begin(), in.inside.end(), same);
  if (known != in.inside.end()) return **known;
  auto made = std::make_unique<ModuleName>();
  made->parent = parent;
  made->part = part;
  made->index = index;
  made->where = where;
  made->name = index < 0 ? std::string(part) : fmt::format("{}.{}", part, index);
  made->path = parent ? parent->path + "." + made->name : made->name;
  in.inside.push_back(std::move(made));
  return *in.inside.back();
}

void end_module(const detail::TraceBegin& began, const ModuleName& m) {
  if (began.on) detail::trace_end(began, TraceEvent::Kind::module, m.name.c_str(), 0, m.path.c_str());
}

}  // namespace

ModulePlace& module_place() {
  thread_local ModulePlace place;
  return place;
}

ModuleScope::ModuleScope(const char* part, int64_t index, std::source_location where) : entered_(anomaly_watch() || detail::tracing) {
  if (!entered_) return;
  ModulePlace& place = module_place();
  before_ = place;
  place = {&part_of(before_.module, part, index, where), 0, before_.again};
  if (detail::tracing) began_ = detail::trace_begin();
}

ModuleScope::~ModuleScope() {
  if (!entered_) return;
  end_module(began_, *module_place().module);
  module_place() = before_;
}

const char* OpScope::path_of_now() {
  const ModuleName* m = module_place().module;
  return m ? m->path.c_str() : "";
}

void BackwardModules::enter(const ModuleName* module) {
  if (!detail::tracing) return;
  std::vector<const ModuleName*> path;  // from the base on
  for (const ModuleName* m = module; m && m != base_; m = m->parent) path.push_back(m);
  std::reverse(path.begin(), path.end());
  size_t same = 0;
  while (same < path.size() && same < open_.size() && path[same] == open_[same].module) ++same;
  leave_to(same);
  for (size_t i = same; i < path.size(); ++i) open_.push_back({path[i], detail::trace_begin()});
}

void BackwardModules::leave_to(size_t depth) {
  for (; open_.size() > depth; open_.pop_back()) end_module(open_.back().began, *open_.back().module);
}

BackwardScope::BackwardScope(BackwardModules& modules, const char* op, const ModuleName* module)
    : before_((modules.enter(module), std::exchange(module_place(), {module, 0, true}))),
      span_(TraceEvent::Kind::backward, op, 0, detail::tracing && module ? module->path.c_str() : "") {}

}  // namespace facet
