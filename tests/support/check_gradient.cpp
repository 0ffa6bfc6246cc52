#include <catch2/catch.hpp>

#include "tests/support/gradcheck.h"

namespace facet::test {

void gradcheck(const std::string& name, const Function& f, const Tensors& inputs, const GradcheckOptions& options) {
  const std::vector<std::string> errors = gradient_errors(name, f, inputs, options);
  CHECK(errors.empty());  // counts the success; the sentences follow
  for (const std::string& e : errors) FAIL_CHECK(e);
}

}  // namespace facet::test
