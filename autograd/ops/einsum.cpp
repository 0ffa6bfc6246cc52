// einsum: letters name dimensions; letters of the operands that the output lacks are summed. Operands are joined from left to
// right, each pair by one batched product; everything is made of permute, reshape, sum, mul and matmul, so gradients follow.
#include <algorithm>
#include <cctype>

#include "autograd/ops.h"

namespace facet {
namespace {

struct Term {
  Tensor value;
  std::string letters;  // one per dimension

  int64_t size(char c) const { return value.dim(static_cast<int>(letters.find(c))); }
};

bool has(const std::string& letters, char c) { return letters.find(c) != std::string::npos; }

struct Spec {
  std::vector<std::string> inputs;
  std::string output;
};

[[noreturn]] void wrong(const std::string& spec, const std::string& what) { fail(Kind::usage, "einsum \"{}\": {}", spec, what); }

Spec parse(const std::string& spec) {
  Spec s{{""}, ""};
  bool arrow = false;
  for (size_t i = 0; i < spec.size(); ++i) {
    const char c = spec[i];
    if (c == ' ') continue;
    if (c == ',' && !arrow) {
      s.inputs.emplace_back();
    } else if (c == '-' && i + 1 < spec.size() && spec[i + 1] == '>' && !arrow) {
      arrow = true;
      ++i;
    } else if (c == '.') {
      wrong(spec, "\"...\" is not supported, give every dimension a letter");
    } else if (!std::isalpha(static_cast<unsigned char>(c))) {
      wrong(spec, fmt::format("unexpected '{}' at position {}, expected letters, ',' and one \"->\"", c, i));
    } else if (std::string& letters = arrow ? s.output : s.inputs.back(); has(letters, c)) {
      wrong(spec, arrow ? fmt::format("'{}' appears twice in the output", c)
                        : fmt::format("'{}' appears twice in one operand; diagonals are not supported", c));
    } else {
      letters += c;
    }
  }
  std::string all;
  for (const std::string& letters : s.inputs) all += letters;
  for (char c : s.output)
    if (!has(all, c)) wrong(spec, fmt::format("'{}' of the output appears in no operand", c));
  if (!arrow) {  // numpy: the letters that appear once, in alphabetical order
    std::sort(all.begin(), all.end());
    for (char c : all)
      if (std::count(all.begin(), all.end(), c) == 1) s.output += c;
  }
  return s;
}

// t with its dimensions in this order.
Tensor arranged(const Term& t, const std::string& letters) {
  if (t.letters == letters) return t.value;
  std::vector<int> order;
  for (char c : letters) order.push_back(static_cast<int>(t.letters.find(c)));
  return permute(t.value, order);
}

// Sums the letters that nothing needs any more.
Term without_unneeded(Term t, const std::string& needed) {
  std::vector<int> dims;
  std::string kept;
  for (size_t i = 0; i < t.letters.size(); ++i) {
    if (has(needed, t.letters[i])) kept += t.letters[i];
    else dims.push_back(static_cast<int>(i));
  }
  if (dims.empty()) return t;
  return {sum(t.value, dims), kept};
}

// One operand where the other has no say: its letters shared with the output, 1 for those it lacks.
Tensor spread(const Term& t, const std::string& letters) {
  std::string own;
  Shape shape;
  for (char c : letters) {
    if (has(t.letters, c)) own += c;
    shape.push(has(t.letters, c) ? t.size(c) : 1);
  }
  return reshape(arranged(t, own), shape);
}

// The product of two terms, summed over the letters that nothing else needs.
Term join(Term a, Term b, const std::string& needed) {
  a = without_unneeded(std::move(a), needed + b.letters);
  b = without_unneeded(std::move(b), needed + a.letters);
  std::string both, rows, columns, summed;
  for (char c : a.letters) (!has(b.letters, c) ? rows : has(needed, c) ? both : summed) += c;
  for (char c : b.letters)
    if (!has(a.letters, c)) columns += c;
  const std::string result = both + rows + columns;
  if (summed.empty()) return {mul(spread(a, result), spread(b, result)), result};

  Shape x, y, z;
  int64_t m = 1, n = 1, p = 1;
  for (char c : both) x.push(a.size(c)), y.push(a.size(c)), z.push(a.size(c));
  for (char c : rows) m *= a.size(c), z.push(a.size(c));
  for (char c : columns) n *= b.size(c), z.push(b.size(c));
  for (char c : summed) p *= a.size(c);
  x.push(m), x.push(p), y.push(n), y.push(p);
  // b is arranged as [.., N, P] when that is how it lies: transposing is free for the product, a copy is not.
  const bool transposed = !b.letters.empty() && has(summed, b.letters.back());
  if (!transposed) y[-2] = p, y[-1] = n;
  const Tensor left = reshape(arranged(a, both + rows + summed), x);
  const Tensor right = reshape(arranged(b, transposed ? both + columns + summed : both + summed + columns), y);
  return {reshape(matmul(left, transposed ? transpose(right) : right), z), result};
}

}  // namespace

Tensor einsum(const std::string& spec, const std::vector<Tensor>& operands) {
  const OpScope scope("einsum");
  const Spec s = parse(spec);
  if (s.inputs.size() != operands.size())
    wrong(spec, fmt::format("names {} operands, {} are given", s.inputs.size(), operands.size()));
  std::vector<Term> terms;
  for (size_t i = 0; i < operands.size(); ++i) {
    if (operands[i].rank() != static_cast<int>(s.inputs[i].size()))
      wrong(spec, fmt::format("operand {} is {}, expected {} dimensions \"{}\"", i, to_string(operands[i].shape()),
                              s.inputs[i].size(), s.inputs[i]));
    terms.push_back({operands[i], s.inputs[i]});
    for (char c : s.inputs[i])
      for (size_t j = 0; j < i; ++j)
        if (has(s.inputs[j], c) && terms[j].size(c) != terms[i].size(c))
          wrong(spec, fmt::format("'{}' is {} in operand {} {} but {} in operand {} {}", c, terms[j].size(c), j,
                                  to_string(operands[j].shape()), terms[i].size(c), i, to_string(operands[i].shape())));
  }
  Term t = std::move(terms[0]);
  for (size_t i = 1; i < terms.size(); ++i) {
    std::string needed = s.output;
    for (size_t j = i + 1; j < terms.size(); ++j) needed += terms[j].letters;
    t = join(std::move(t), std::move(terms[i]), needed);
  }
  t = without_unneeded(std::move(t), s.output);
  return arranged(t, s.output);
}

}  // namespace facet
