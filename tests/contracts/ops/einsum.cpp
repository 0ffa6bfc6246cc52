#include <iterator>
#include <map>

#include "autograd/ops.h"
#include "tests/contracts/ops/list.h"

namespace facet::test {
namespace {

// A spec and its operands' letters.
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
  return Tensor::from(y, shape).to(x[0].dtype());
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

const char* spec_of(const Tensors& x) { return specs[static_cast<size_t>(x[0].item())]; }
Tensors operands(const Tensors& x) { return {x.begin() + 1, x.end()}; }

}  // namespace

Contracts einsum_contracts() {
  Contract c;
  c.name = "einsum";
  c.samples = static_cast<int>(std::size(specs));
  c.dtypes = {DType::f64, DType::f32};  // between three operands a bf16 product is rounded, and sums of all of them cancel
  c.f32_nmse = 1e-10;
  c.host = {0};
  c.inputs = [](Random& r, int s) -> Tensors {
    const Parsed p = parsed(specs[s]);
    const auto size = sizes_of(p);
    Tensors x = {Tensor::scalar(s, DType::i32)};  // which spec
    for (const std::string& letters : p.in) {
      Shape shape;
      for (char letter : letters) shape.push(size.at(letter));
      x.push_back(with_layout(r.normal(shape), all_layouts[(static_cast<size_t>(s) + x.size()) % 4]));
    }
    return x;
  };
  c.fused = [](const Tensors& x) -> Tensors { return {einsum(spec_of(x), operands(x))}; };
  c.composite = [](const Tensors& x) -> Tensors { return {naive(parsed(spec_of(x)), operands(x))}; };
  return {c};
}

}  // namespace facet::test
