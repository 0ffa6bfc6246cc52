#include "tests/support/goldens.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "tensor/io/safetensors.h"
#include "tests/support/compare.h"

namespace facet::test {
using nlohmann::json;

std::string golden_path(const std::string& relative) { return std::string(FACET_GOLDENS "/") + relative; }

namespace {
std::string read_file(const std::string& relative) {
  std::ifstream in(golden_path(relative), std::ios::binary);
  if (!in) fail(Kind::file, "tests/goldens/{}: cannot open", relative);
  return {std::istreambuf_iterator<char>(in), {}};
}

Tensor load(const Safetensors& file, const std::string& name, const TensorInfo& info) {
  if (info.dtype != "I64") return file.load(name);
  const std::vector<uint8_t> bytes = file.bytes(name);
  std::vector<double> v(bytes.size() / 8);
  for (size_t i = 0; i < v.size(); ++i) {
    int64_t integer;
    std::memcpy(&integer, bytes.data() + 8 * i, 8);
    v[i] = static_cast<double>(integer);
  }
  return Tensor::from(v, info.shape);
}
}  // namespace

Golden::Golden(const std::string& relative) : file_(relative) {
  const Safetensors file(golden_path(relative));
  for (const auto& [name, info] : file.tensors()) tensors_[name] = load(file, name, info);
}

const Tensor& Golden::operator[](const std::string& name) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) fail(Kind::file, "tests/goldens/{}: no tensor \"{}\"", file_, name);
  return it->second;
}

struct OpCase::Data {
  std::shared_ptr<const Golden> tensors;
  json entry;
};

namespace {
const json& attribute_of(const OpCase& c, const std::string& name) {
  static const json none;
  const json& all = c.data->entry["attributes"];
  return all.contains(name) ? all[name] : none;
}
}  // namespace

Tensor OpCase::in(const std::string& input, DType dtype) const {
  const Tensor& t = (*data->tensors)[name + "/in/" + input];
  return t.dtype() == DType::i32 ? t : t.to(dtype);
}
Tensor OpCase::out(const std::string& output) const { return (*data->tensors)[name + "/out/" + output]; }
Tensor OpCase::grad(const std::string& input) const {
  const std::string key = name + "/grad/" + input;
  return data->tensors->has(key) ? (*data->tensors)[key] : Tensor{};
}
Tensor OpCase::cotangent(const std::string& output, DType dtype) const {
  const std::string key = name + "/in/d" + output;
  return data->tensors->has(key) ? (*data->tensors)[key].to(dtype) : Tensor{};
}
bool OpCase::has_attribute(const std::string& key) const { return !attribute_of(*this, key).is_null(); }
double OpCase::attribute(const std::string& key) const {
  if (!has_attribute(key)) fail(Kind::file, "ops.json: case {} has no attribute \"{}\"", name, key);
  return attribute_of(*this, key);
}
double OpCase::attribute(const std::string& key, double otherwise) const { return has_attribute(key) ? attribute(key) : otherwise; }
std::string OpCase::text(const std::string& key) const { return attribute_of(*this, key); }
double OpCase::f32_error() const {
  double worst = 0;
  for (const auto& [what, e] : data->entry["f32_error_relative_to_max"].items())
    if (e.is_number()) worst = std::max(worst, e.get<double>());
  return worst;
}

void for_each_op_case(const std::string& op, const std::function<void(const OpCase&)>& f) {
  static const auto tensors = std::make_shared<const Golden>("ops.safetensors");
  static const json cases = json::parse(read_file("ops.json"))["cases"];
  int found = 0;
  for (const auto& [name, entry] : cases.items()) {
    if (entry["op"] != op) continue;
    ++found;
    OpCase c{name, op, {}, {}, std::make_shared<OpCase::Data>(OpCase::Data{tensors, entry})};
    for (const auto& [input, shape] : entry["inputs"].items()) c.inputs.push_back(input);
    for (const auto& [output, shape] : entry["outputs"].items()) c.outputs.push_back(output);
    INFO("golden " << name);
    f(c);
  }
  INFO("ops.json has no case of op " << op);
  CHECK(found > 0);
}

namespace {
double largest(const Tensor& t) {
  double m = 0;
  for (double v : t.to_vector())
    if (std::isfinite(v)) m = std::max(m, std::abs(v));
  return m;
}

void check_case(const OpCase& c, const std::vector<std::string>& inputs, const GoldenFunction& f, DType dtype, double tolerance) {
  INFO("in " << facet::name_of(dtype) << ", tolerance " << tolerance << " of the largest entry");
  Tensors x;
  for (const std::string& name : inputs) {
    const Tensor t = c.in(name, dtype);
    x.push_back(t.dtype() != DType::i32 && c.grad(name) ? leaf(t) : t);
  }
  const Tensors y = f(c, x);
  REQUIRE(y.size() == c.outputs.size());
  Tensors weights;
  for (size_t k = 0; k < y.size(); ++k) {
    INFO("output " << c.outputs[k]);
    const Tensor expected = c.out(c.outputs[k]);
    CHECK(close(y[k], expected, 0, tolerance * largest(expected) + 1e-300));
    weights.push_back(c.cotangent(c.outputs[k], dtype));
  }
  const Tensor s = weighted_sum(y, weights);
  if (s.slot()) backward(s);
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!x[i].slot()) continue;
    INFO("gradient of " << inputs[i]);
    const Tensor expected = c.grad(inputs[i]), g = grad_of(x[i]);
    // What cancels to nothing (a row of one, normalised) leaves rounding in f32, with nothing to measure it by.
    if (dtype == DType::f32 && largest(expected) == 0) continue;
    if (!g) CHECK(largest(expected) == 0);
    else CHECK(close(g, expected, 0, tolerance * largest(expected) + (dtype == DType::f64 ? 1e-15 : 1e-30)));
  }
}
}  // namespace

void check_op_goldens(const std::string& op, const std::vector<std::string>& inputs, const GoldenFunction& f, double rtol) {
  for_each_op_case(op, [&](const OpCase& c) {
    check_case(c, inputs, f, DType::f64, rtol);
    check_case(c, inputs, f, DType::f32, std::max(8 * c.f32_error(), 2e-6));
  });
}

}  // namespace facet::test
