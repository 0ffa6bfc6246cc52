// A disk that forgets: applies a record of calls (interposer.cc) and says what a loss of power may leave. What POSIX promises and no
// more: a file's content is safe after its own fsync, a name after its folder's; of the rest anything may be there, pages of 4 KiB and
// names each for themselves, in any order.
#pragma once
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace facet::test {

struct Call {
  std::string name;         ///< create, folder, write, sync, close, truncate, rename, exchange, make, remove
  long descriptor, number;  ///< number: the offset of a write, the size of a truncate, 1 of a create that empties
  std::string path, data;   ///< of a descriptor the path that was opened; data: what is written; for renames the other path

  /// Whether the interposer may make it fail.
  bool judged() const { return name != "folder" && name != "close" && name != "truncate"; }
};
std::vector<Call> read_record(const std::string& file);

/// Of each call whether the moment before it is unlike its neighbours. Writes into a file under a temporary name follow each other by the
/// hundred, and what they have left is removed unread: the first, one in the middle and the last speak for all.
std::vector<bool> distinct_moments(const std::vector<Call>&);

class Disk {
 public:
  /// An empty folder that is safe itself.
  explicit Disk(std::string root);
  ~Disk();

  void apply(const Call&);
  /// What is not safe yet: all of it is lost, none, only contents, or each piece by chance.
  enum class Loss { everything, nothing, contents, some };
  /// Files by path below the root, folders with a slash at the end.
  using Image = std::map<std::string, std::string>;
  Image after(Loss, std::mt19937&) const;
  /// What stands there now.
  const std::string& content_of(const std::string& path) const;

 private:
  struct Node;
  using NodePtr = std::shared_ptr<Node>;
  using Names = std::map<std::string, NodePtr>;
  NodePtr find(const std::string& path) const;
  NodePtr parent_of(const std::string& path) const;
  static void collect(const Node&, const std::string& prefix, Loss, std::mt19937&, Image&);

  std::string root_;
  NodePtr top_;
  std::map<long, NodePtr> open_;
};

/// Makes a folder hold an image and nothing else.
void restore(const Disk::Image&, const std::string& folder);

}  // namespace facet::test
