// einsum against a loop over all indices, the reference's numbers, and its error messages.
#include <catch2/catch.hpp>
#include <map>

#include "autograd/ops.h"
#include "tests/support/compare.h"
#include "tests/support/goldens.h"
#include "tests/support/gradcheck.h"
#include "tests/support/random.h"

using namespace facet;
using namespace facet::test;

namespace {

struct Parsed {
  std::vector<std::string> in;
  std::string out, all;
};

// Explicit outputs only; the library parses for itself.
Parsed parsed(const std::string& spec) {
  Parsed p{{""}, "", ""};
  const size_t arrow = spec.find("->");
  for (size_t i = 0; i < arrow; ++i) {
    if (spec[i] == ',') p.in.emplace_back();
    else if (spec[i] != ' ') p.in.back() += spec[i];
  }
  for (char c : spec.substr(arrow + 2))
    if (c != ' ') p.out += c;
  for (const std::string& s : p.in)
    for (char c : s)
      if (p.all.find(c) == std::string::npos) p.all += c;
  return p;
}

std::map<char, int64_t> sizes_of(const Parsed& p) {
  const int64_t sizes[] = {2, 3, 4, 1, 5, 3, 2};
  std::map<char, int64_t> s;
  for (size_t i = 0; i < p.all.size(); ++i) s[p.all[i]] = sizes[i % 7];
  return s;
}

Tensor naive(const Parsed& p, const Tensors& x) {
  const auto size = sizes_of(p);
  Shape shape;
  int64_t steps = 1;
  for (char c : p.out) shape.push(size.at(c));
  for (char c : p.all) steps *= size.at(c);
  std::vector<std::vector<double>> values;
  for (const Tensor& t : x) values.push_back(t.to_vector());
  std::vector<double> y(shape.numel());
  for (int64_t i = 0; i < steps; ++i) {
    std::map<char, int64_t> at;
    int64_t rest = i;
    for (char c : p.all) at[c] = rest % size.at(c), rest /= size.at(c);
    auto flat = [&](const std::string& letters) {
      int64_t f = 0;
      for (char c : letters) f = f * size.at(c) + at[c];
      return f;
    };
    double product = 1;
    for (size_t k = 0; k < p.in.size(); ++k) product *= values[k][flat(p.in[k])];
    y[flat(p.out)] += product;
  }
  return Tensor::from(y, shape);
}

const char* const specs[] = {
    // attention and projections
    "bhqd,bhkd->bhqk", "BTD,NDH->BTNH", "BTNH,NHD->BTD", "BSD,CKDH->CBSKH", "BTNH,BSNH->BTNS", "BTNS,BSNH->BTNH",
    "btkgh,bskh->bkgts", "bkgts,bskh->btkgh", "bqhd,bkhd->bhqk", "bhqk,bkhd->bqhd", "btd,nhd->btnh", "btnh,nhd->btd",
    // feed-forward
    "btd,df->btf", "btf,fd->btd", "BTF,NHF->BTNH", "td,vd->tv",
    // matrices and vectors
    "ij,jk->ik", "ij,kj->ik", "ji,jk->ik", "ji,kj->ik", "ij,jk->ki", "ij,j->i", "i,ij->j", "i,i->", "i,j->ij", "i,j->ji",
    "ij,ij->", "ij,ij->ij", "ij,ji->", "ij,ji->ij", "ij,ij->i", "ij,ij->j", "i,i->i", "bij,bjk->bik", "bij,bkj->bki",
    "bi,bi->b", "bi,i->b", "bi,i->bi", "bij,j->bi", "ab,cd->abcd", "ab,cd->dacb", "ab,cd->", "ab,cd->ad",
    // one operand
    "ij->ji", "ij->", "ij->i", "ij->j", "ijk->kij", "ijk->ik", "ijk->ijk", "i->",
    // scalars
    ",i->i", "i,->i", ",->", "->",
    // more than two
    "ij,jk,kl->il", "i,j,k->ijk", "ij,jk,ki->", "bi,bj,bk->bijk", "ab,bc,cd,de->ae", "i,i,i->", "td,dr,rf->tf", "i,ij,j->",
    // spaces
    " b h q d , b h k d -> b h q k "};

Tensors inputs(const Parsed& p, Random& r, int layout) {
  const auto size = sizes_of(p);
  Tensors x;
  for (const std::string& letters : p.in) {
    Shape shape;
    for (char c : letters) shape.push(size.at(c));
    x.push_back(with_layout(r.normal(shape), all_layouts[(layout + x.size()) % 4]));
  }
  return x;
}

}  // namespace

TEST_CASE("einsum: values and gradients of every spec") {
  Random r(3);
  int layout = 0;
  for (const char* spec : specs) {
    INFO(spec);
    const Parsed p = parsed(spec);
    const Tensors x = inputs(p, r, ++layout);
    const Tensor want = naive(p, x);
    CHECK(close(einsum(spec, x), want, 1e-12, 1e-12));
    Tensors f32;
    for (const Tensor& t : x) f32.push_back(t.to(DType::f32));
    CHECK(close(einsum(spec, f32), want, 1e-4, 1e-5));
    gradcheck(spec, [&](const Tensors& t) { return einsum(spec, t); }, x);
  }
  CHECK(std::size(specs) >= 40);
}

TEST_CASE("einsum: without an output the letters that appear once, sorted") {
  Random r(4);
  const Tensor a = r.normal({2, 3}), b = r.normal({3, 4});
  CHECK(bitwise_equal(einsum("ij,jk", {a, b}).dense(), einsum("ij,jk->ik", {a, b}).dense()));
  CHECK(bitwise_equal(einsum("zj,jk", {a, b}).dense(), einsum("zj,jk->kz", {a, b}).dense()));
  CHECK(bitwise_equal(einsum("ba", {a}).dense(), a.transpose(0, 1).dense()));
}

TEST_CASE("einsum: the reference's numbers") {
  check_op_goldens("einsum", {"a", "b"}, [](const OpCase& c, const Tensors& x) -> Tensors { return {einsum(c.text("equation"), x)}; });
}

TEST_CASE("einsum: says what is wrong with a spec") {
  const Tensor a = Tensor::zeros({2, 3}), b = Tensor::zeros({4, 5});
  CHECK_THROWS_WITH(einsum("ij,jk->ik", {a, b}), Catch::Contains("'j' is 3 in operand 0 [2, 3] but 4 in operand 1 [4, 5]"));
  CHECK_THROWS_WITH(einsum("ii->i", {a}), Catch::Contains("diagonals are not supported"));
  CHECK_THROWS_WITH(einsum("ij->ii", {a}), Catch::Contains("appears twice in the output"));
  CHECK_THROWS_WITH(einsum("ij->k", {a}), Catch::Contains("'k' of the output appears in no operand"));
  CHECK_THROWS_WITH(einsum("i...->i", {a}), Catch::Contains("not supported"));
  CHECK_THROWS_WITH(einsum("ij,jk->ik", {a}), Catch::Contains("names 2 operands, 1 are given"));
  CHECK_THROWS_WITH(einsum("ijk->i", {a}), Catch::Contains("operand 0 is [2, 3], expected 3 dimensions"));
  for (const char* bad : {"ij->i->j", "i1->i", "ij-i", "ij>i", "ij->i,j", "i|j"}) CHECK_THROWS_AS(einsum(bad, {a}), Error);
}
