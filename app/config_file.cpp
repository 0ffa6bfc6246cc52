// YAML in, YAML out. The only file that sees yaml-cpp. Every scalar is read as text and parsed by its option, so that 1e-5 is
// a number wherever a number is meant.
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "app/options.h"
#include "tensor/error.h"

namespace facet::app {
namespace {

constexpr size_t max_bytes = 1 << 20;
constexpr size_t max_items = 10'000, max_depth = 64;

// Follows the parser through a file before a tree is made of it. Aliases let a small file unfold into a large one, or into itself;
// no setting needs them.
class Limits : public YAML::EventHandler {
 public:
  Limits(const std::string& path, const std::string& text) : path_(path) {
    std::stringstream stream(text);
    YAML::Parser(stream).HandleNextDocument(*this);
  }
  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& at, YAML::anchor_t anchor) override { count(at, anchor); }
  void OnScalar(const YAML::Mark& at, const std::string&, YAML::anchor_t anchor, const std::string&) override { count(at, anchor); }
  void OnAlias(const YAML::Mark& at, YAML::anchor_t) override { fail(Kind::usage, "{}:{}: aliases (*name) are not supported", path_, at.line + 1); }
  void OnSequenceStart(const YAML::Mark& at, const std::string&, YAML::anchor_t anchor, YAML::EmitterStyle::value) override { open(at, anchor); }
  void OnSequenceEnd() override { --depth_; }
  void OnMapStart(const YAML::Mark& at, const std::string&, YAML::anchor_t anchor, YAML::EmitterStyle::value) override { open(at, anchor); }
  void OnMapEnd() override { --depth_; }

 private:
  void count(const YAML::Mark& at, YAML::anchor_t anchor) {
    if (anchor != 0) fail(Kind::usage, "{}:{}: anchors (&name) are not supported", path_, at.line + 1);
    if (++items_ > 2 * max_items) fail(Kind::usage, "{}:{}: more than {} values", path_, at.line + 1, max_items);
  }
  void open(const YAML::Mark& at, YAML::anchor_t anchor) {
    count(at, anchor);
    if (++depth_ > max_depth) fail(Kind::usage, "{}:{}: nested deeper than {} levels", path_, at.line + 1, max_depth);
  }

  const std::string& path_;
  size_t items_ = 0, depth_ = 0;
};

struct Reader {
  const std::string& path;
  std::vector<Assignment> out;
  size_t items = 0;

  std::string where(const YAML::Node& node, const std::string& key) const {
    return fmt::format("{}:{}: {}", path, node.Mark().line + 1, key);
  }

  void count(const YAML::Node& node) {
    if (++items > max_items) fail(Kind::usage, "{}:{}: more than {} values", path, node.Mark().line + 1, max_items);
  }

  void map(const YAML::Node& node, const std::string& prefix) {
    std::set<std::string> seen;
    for (const auto& entry : node) {
      count(entry.second);
      if (!entry.first.IsScalar()) fail(Kind::usage, "{}:{}: a key must be a word", path, entry.first.Mark().line + 1);
      const std::string key = prefix + entry.first.Scalar();
      const std::string at = where(entry.first, key);
      if (!seen.insert(kebab(key)).second) fail(Kind::usage, "{}: key given twice", at);
      if (entry.second.IsMap()) {
        if (!prefix.empty()) fail(Kind::usage, "{}: sections do not nest", at);
        map(entry.second, key == "set" ? "" : key + ".");
      } else {
        out.push_back({key, values(entry.second, at), at, Layer::file});
      }
    }
  }

  Values values(const YAML::Node& node, const std::string& at) {
    if (node.IsNull()) return {};
    if (node.IsScalar()) return {node.Scalar()};
    Values list;
    for (const auto& item : node) {
      count(item);
      if (!item.IsScalar()) fail(Kind::usage, "{}: a list may hold words and numbers only", at);
      list.push_back(item.Scalar());
    }
    return list;
  }
};

}  // namespace

std::vector<Assignment> read_config(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) fail(Kind::usage, "--config: no such file: {}", path);
  if (const auto bytes = std::filesystem::file_size(path, error); bytes > max_bytes)
    fail(Kind::usage, "{}: {} bytes is too large for a config file (at most {})", path, bytes, max_bytes);
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  if (!(text << file.rdbuf()) && file.peek() != std::ifstream::traits_type::eof()) fail(Kind::usage, "{}: cannot be read", path);
  Reader reader{path, {}};
  try {
    Limits(path, text.str());
    const YAML::Node root = YAML::Load(text.str());
    if (root.IsNull()) return {};
    if (!root.IsMap()) fail(Kind::usage, "{}: expected lines of the form \"key: value\"", path);
    reader.map(root, "");
  } catch (const YAML::Exception& e) {
    fail(Kind::usage, "{}:{}: column {}: {}", path, e.mark.line + 1, e.mark.column + 1, e.msg);
  }
  return reader.out;
}

std::string Options::dump() const {
  YAML::Emitter yaml;
  const auto emit = [&](const Option& o) {
    if (o.is_transient()) return;
    const std::string prefix = o.section + "-";
    yaml << YAML::Key << (o.name.rfind(prefix, 0) == 0 ? o.name.substr(prefix.size()) : o.name) << YAML::Value;
    const Values v = o.show();
    if (o.is_list()) yaml << YAML::Flow << v;
    else if (v.empty()) yaml << YAML::Null;
    else yaml << v[0];
  };
  yaml << YAML::BeginMap;
  for (const Option& o : list_)
    if (o.section.empty()) emit(o);
  for (const std::string& s : sections_) {
    bool any = false;
    for (const Option& o : list_) any = any || (o.section == s && !o.is_transient());
    if (!any) continue;
    yaml << YAML::Key << s << YAML::Value << YAML::BeginMap;
    for (const Option& o : list_)
      if (o.section == s) emit(o);
    yaml << YAML::EndMap;
  }
  std::map<std::string, std::string> extra;
  for (const auto& [prefix, values] : passed_)
    for (const auto& [key, value] : *values) extra[prefix + "." + key] = value;
  if (!extra.empty()) yaml << YAML::Key << "set" << YAML::Value << extra;
  yaml << YAML::EndMap;
  return std::string(yaml.c_str()) + "\n";
}

}  // namespace facet::app
