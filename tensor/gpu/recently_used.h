// Things made for keys that come and go, as many as may be kept: a new one takes the place of the one that was not used for longest.
#pragma once
#include <cstddef>
#include <list>
#include <unordered_map>
#include <utility>

namespace facet::gpu {

template <class Key, class Value, class Hash>
class RecentlyUsed {
 public:
  explicit RecentlyUsed(size_t most) : most_(most) {}
  /// Used now; null: not there.
  Value* find(const Key& key) {
    const auto found = at_.find(key);
    if (found == at_.end()) return nullptr;
    list_.splice(list_.begin(), list_, found->second);
    return &found->second->second;
  }
  /// Used now. `key` must be new. What goes for it is told to `goes(value)`, which may refuse (false): then another one goes, or none.
  template <class Goes>
  Value& add(const Key& key, Value value, Goes&& goes) {
    for (auto i = list_.end(); list_.size() >= most_ && i != list_.begin();) {
      if (!goes((--i)->second)) continue;
      at_.erase(i->first);
      i = list_.erase(i);
    }
    list_.emplace_front(key, std::move(value));
    at_.emplace(key, list_.begin());
    return list_.front().second;
  }
  Value& add(const Key& key, Value value) {
    return add(key, std::move(value), [](const Value&) { return true; });
  }
  size_t size() const { return list_.size(); }

 private:
  using List = std::list<std::pair<Key, Value>>;  // the last used first
  size_t most_;
  List list_;
  std::unordered_map<Key, typename List::iterator, Hash> at_;
};

}  // namespace facet::gpu
