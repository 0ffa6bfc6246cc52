// Verifiers: what reinforcement learning and evaluation take for the truth. Each gives an answer a reward; 1 means right.
//
//   radicals        exact arithmetic on the prompt (data/radicals.h): 1 simplified, 0.3 equal, 0.1 well-formed, 0
//   exact           the expected answer, spaces at the ends aside
//   numeric         the final number is that of the expected answer: after the last "####", in the last \boxed{}, else the last of the
//                   text; compared as fractions, so 0.5, 1/2, \frac{1}{2} are equal, and 1,000 is 1000.0
//   regex:PATTERN   the pattern (data/regex.h) occurs in the answer
//   length:N..M     1 within so many characters, N/length or length/M outside; either end may be left out
//   exec:COMMAND    a program of yours (data/exec_verifier.h)
#pragma once
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/question.h"

namespace facet {

struct Judged {
  const Question* question;
  std::string completion;
};

struct Verdict {
  double reward = 0;
  std::string name;   ///< "correct", "wrong", ...
  std::string error;  ///< not empty: there is no reward; the row is left out of what is learned, and said
};

class Verifier {
 public:
  virtual ~Verifier() = default;
  virtual const std::string& name() const = 0;  ///< as it was asked for: "radicals", "regex:^[0-9]+$"
  /// Throws Error(Kind::data) about a question that it can never judge, before anything is computed.
  virtual void check(const Question&) const {}
  /// One verdict for each, in order. Any bytes are welcome.
  virtual std::vector<Verdict> judge(std::span<const Judged>) = 0;
};

/// What programs that judge may use up; see data/exec_verifier.h.
struct ExecLimits {
  double seconds = 10, seconds_per_row = 0.1;  ///< of a batch: the sum of the first and a share for each row
  size_t output_bytes = size_t{64} << 10, output_bytes_per_row = 64;
};

/// By the names above. Throws Error(Kind::usage) naming the nearest, or the place of a mistake in a pattern.
std::unique_ptr<Verifier> make_verifier(const std::string& spec, const ExecLimits& = {});

struct Reward {
  double total = 0;           ///< sum of weight times reward
  std::vector<double> each;   ///< by verifier; unweighted
  std::string verdict;        ///< of the first verifier; of several "correct, length:1..9 0.5"
  std::string error;          ///< not empty: some verifier gave none, nothing above counts
};

/// The weighted sum of several verifiers.
class Rewards {
 public:
  void add(std::unique_ptr<Verifier>, double weight = 1);  ///< throws Error(Kind::usage) when the weight is not finite
  size_t size() const { return list_.size(); }
  const std::string& name(size_t i) const { return list_[i].verifier->name(); }
  double weight(size_t i) const { return list_[i].weight; }
  /// Throws Error(Kind::data) with file and line on the first question that some verifier can never judge.
  void check(std::span<const Question>) const;
  /// Never throws for what a verifier does: an exception, a wrong number of verdicts or a reward that is not finite becomes the error
  /// of the rows it concerns, `reward "exec:./judge" raised at sample 3: ...`.
  std::vector<Reward> judge(std::span<const Judged>);

 private:
  struct Weighted {
    std::unique_ptr<Verifier> verifier;
    double weight;
  };
  std::vector<Weighted> list_;
};

}  // namespace facet
