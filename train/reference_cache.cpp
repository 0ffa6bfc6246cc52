#include "train/reference_cache.h"

#include <cmath>
#include <filesystem>

#include "tensor/io/safetensors.h"
#include "tensor/io/text.h"

namespace facet {
namespace {

constexpr const char* format = "facet reference log-probabilities 1";

}  // namespace

void ReferenceCache::save(const std::string& path) const {
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const auto& [name, values] : parts) tensors.emplace_back(name, Tensor::from(values, {std::ssize(values)}));
  save_safetensors(path, tensors, {{"format", format}, {"data", data}, {"reference", reference}});
}

std::optional<ReferenceCache> ReferenceCache::load(const std::string& path, const std::string& data, const std::string& reference) {
  if (!std::filesystem::exists(path)) return {};
  const Safetensors file(path);
  const auto said = [&](const char* key) {
    const auto at = file.metadata().find(key);
    return at == file.metadata().end() ? std::string() : printable(at->second, 200);
  };
  if (said("format") != format) fail(Kind::file, "{}: not a file of reference log-probabilities (format \"{}\")", path, said("format"));
  for (const auto& [what, now] : {std::pair{"data", &data}, {"reference", &reference}})
    if (said(what) != *now) fail(Kind::file, "{}: was computed with {} {}; this run has {} {}", path, what, said(what), what, *now);
  ReferenceCache c{data, reference, {}};
  for (const auto& [name, info] : file.tensors()) {
    if (info.dtype != "F64" || info.shape.rank != 1) fail(Kind::file, "{}: \"{}\" must be a list of F64", path, printable(name, 40));
    LogProbs values = file.load(name).to_vector();
    for (size_t i = 0; i < values.size(); ++i)
      if (!std::isfinite(values[i])) fail(Kind::file, "{}: \"{}\" holds {} for example {}", path, printable(name, 40), values[i], i);
    c.parts[name] = std::move(values);
  }
  return c;
}

Reference cached_reference(const LogProbs& part) {
  return [&part](const Batch& b) {
    LogProbs r;
    for (const int64_t example : b.examples) {
      if (example >= std::ssize(part)) fail(Kind::file, "the reference's log-probabilities are {}; example {} is beyond them", part.size(), example);
      r.push_back(part[static_cast<size_t>(example)]);
    }
    return r;
  };
}

}  // namespace facet
