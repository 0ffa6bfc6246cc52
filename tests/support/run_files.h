// What a run left in its folder, without what no two runs share: clocks, memory, process ids.
#pragma once
#include <map>
#include <string>

namespace facet::test {

/// metrics.jsonl without what a clock or the pool says. Throws when a line is no JSON.
std::string metrics_of(const std::string& folder);

/// Everything that a resumed run must share with the one that was not stopped, by relative name.
std::map<std::string, std::string> results_of(const std::string& folder);

/// The names under which two of these differ, for messages; "" when they are the same.
std::string difference(const std::map<std::string, std::string>& a, const std::map<std::string, std::string>& b);

}  // namespace facet::test
