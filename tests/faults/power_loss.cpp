#include "tests/faults/power_loss.h"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <stdexcept>

namespace facet::test {
namespace fs = std::filesystem;

std::vector<Call> read_record(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  std::vector<Call> calls;
  std::map<long, std::string> open;
  for (size_t at = 0; at < text.size();) {
    char name[32];
    long descriptor, number;
    size_t path, data;
    const size_t line = text.find('\n', at);
    if (line == text.npos || std::sscanf(text.c_str() + at, "%31s %ld %ld %zu %zu", name, &descriptor, &number, &path, &data) != 5 ||
        text.size() - line - 1 < path + data)
      throw std::runtime_error("a record that is none: byte " + std::to_string(at));
    calls.push_back({name, descriptor, number, text.substr(line + 1, path), text.substr(line + 1 + path, data)});
    at = line + 1 + path + data;
    Call& c = calls.back();
    if (c.name == "create" || c.name == "folder") open[c.descriptor] = c.path;
    else if (c.path.empty()) c.path = open[c.descriptor];
  }
  return calls;
}

std::vector<bool> distinct_moments(const std::vector<Call>& calls) {
  std::vector<bool> distinct(calls.size(), true);
  std::map<std::string, std::vector<size_t>> writes;  // no temporary name comes twice
  for (size_t i = 0; i < calls.size(); ++i)
    if (calls[i].name == "write" && calls[i].path.find("/tmp.") != std::string::npos) writes[calls[i].path].push_back(i);
  for (const auto& [path, list] : writes)
    for (size_t i = 1; i + 1 < list.size(); ++i) distinct[list[i]] = i == list.size() / 2;
  return distinct;
}

struct Disk::Node {
  bool folder = false;
  // A file: what it holds, what it is sure to hold.
  std::string now, safe;
  // A folder: the same of its names, and what was done to them since they were safe, in order.
  Names names, safe_names;
  std::vector<std::function<void(Names&)>> pending;

  void change(const std::function<void(Names&)>& f) {
    f(names);
    pending.push_back(f);
  }
};

Disk::Disk(std::string root) : root_(std::move(root)), top_(std::make_shared<Node>()) { top_->folder = true; }
Disk::~Disk() = default;

Disk::NodePtr Disk::find(const std::string& path) const {
  if (path.compare(0, root_.size(), root_) != 0) throw std::runtime_error(path + " is outside " + root_);
  NodePtr at = top_;
  for (const fs::path& part : fs::path(path.substr(root_.size())).relative_path()) {
    if (part.empty() || part == ".") continue;
    const auto i = at->names.find(part.string());
    if (i == at->names.end()) return nullptr;
    at = i->second;
  }
  return at;
}

Disk::NodePtr Disk::parent_of(const std::string& path) const { return find(fs::path(path).parent_path().string()); }

const std::string& Disk::content_of(const std::string& path) const { return find(path)->now; }

void Disk::apply(const Call& c) {
  const auto name_of = [](const std::string& path) { return fs::path(path).filename().string(); };
  if (c.name == "create" || c.name == "folder") {
    NodePtr node = find(c.path);
    if (!node) {
      node = std::make_shared<Node>();
      parent_of(c.path)->change([name = name_of(c.path), node](Names& n) { n[name] = node; });
    } else if (c.number == 1 && !node->folder) {
      node->now.clear();
    }
    open_[c.descriptor] = node;
  } else if (c.name == "make") {
    const auto node = std::make_shared<Node>();
    node->folder = true;
    parent_of(c.path)->change([name = name_of(c.path), node](Names& n) { n[name] = node; });
  } else if (c.name == "remove") {
    parent_of(c.path)->change([name = name_of(c.path)](Names& n) { n.erase(name); });
  } else if (c.name == "rename" || c.name == "exchange") {
    const NodePtr folder = parent_of(c.path);
    if (folder != parent_of(c.data)) throw std::runtime_error("renamed to another folder: " + c.path);
    folder->change([from = name_of(c.path), to = name_of(c.data), exchange = c.name == "exchange"](Names& n) {
      const auto i = n.find(from);
      if (i == n.end()) return;  // never got there
      const NodePtr moved = i->second;
      n.erase(i);
      if (const auto other = n.find(to); exchange && other != n.end()) n[from] = other->second;
      n[to] = moved;
    });
  } else if (c.name == "write") {
    std::string& now = open_.at(c.descriptor)->now;
    const auto at = static_cast<size_t>(c.number);
    if (now.size() < at + c.data.size()) now.resize(at + c.data.size());
    now.replace(at, c.data.size(), c.data);
  } else if (c.name == "truncate") {
    open_.at(c.descriptor)->now.resize(static_cast<size_t>(c.number));
  } else if (c.name == "sync") {
    Node& node = *open_.at(c.descriptor);
    node.safe = node.now;
    node.safe_names = node.names;
    node.pending.clear();
  } else if (c.name == "close") {
    open_.erase(c.descriptor);
  }
}

void Disk::collect(const Node& node, const std::string& prefix, Loss loss, std::mt19937& random, Image& image) {
  Names names = node.safe_names;
  for (const auto& change : node.pending)
    if (loss == Loss::nothing || loss == Loss::contents || (loss == Loss::some && random() % 2)) change(names);
  for (const auto& [name, child] : names) {
    if (child->folder) {
      image[prefix + name + "/"];
      collect(*child, prefix + name + "/", loss, random, image);
      continue;
    }
    std::string bytes = loss == Loss::nothing ? child->now : child->safe;
    if (loss == Loss::some && child->now != child->safe) {
      // Any length between the two; pages that were not written in time hold what was there, or zeros.
      const size_t a = child->safe.size(), b = child->now.size();
      bytes.resize(random() % 2 ? b : std::min(a, b) + random() % (std::max(a, b) - std::min(a, b) + 1));
      for (size_t page = 0; page < bytes.size(); page += 4096)
        if (random() % 2) {
          const size_t n = std::min<size_t>({4096, bytes.size() - page, child->now.size() > page ? child->now.size() - page : 0});
          bytes.replace(page, n, child->now, page, n);
        }
    }
    image[prefix + name] = bytes;
  }
}

Disk::Image Disk::after(Loss loss, std::mt19937& random) const {
  Image image;
  collect(*top_, "", loss, random, image);
  return image;
}

void restore(const Disk::Image& image, const std::string& folder) {
  fs::remove_all(folder);
  fs::create_directories(folder);
  for (const auto& [name, bytes] : image)
    if (name.back() == '/') fs::create_directories(folder + "/" + name);
    else std::ofstream(folder + "/" + name, std::ios::binary) << bytes;
}

}  // namespace facet::test
