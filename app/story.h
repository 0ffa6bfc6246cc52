// The page the tour ends with: what was held out, how each stage did on it, how the runs went, and where the time went.
#pragma once
#include <string>
#include <vector>

#include "app/answers.h"

namespace facet::app {

/// What a stage of the tour left behind, judged the same way each time.
struct Stage {
  std::string name;                 ///< "init", "SFT", "GRPO"
  PassRate greedy, sampled;         ///< on held-out problems
  PassRate longer;                  ///< greedy, on problems longer than any trained on
  std::vector<std::string> answers; ///< to the shown problems, with the verdict
  std::vector<double> rewards;      ///< of the sampled answers
};

struct Story {
  std::string title, task;          ///< the task in a sentence or two, Markdown
  std::vector<Stage> stages;
  std::vector<std::pair<std::string, std::string>> problems;  ///< shown: question, right answer
  std::string sft_run, grpo_run;    ///< folders whose metrics.jsonl are drawn
  std::vector<std::pair<std::string, double>> seconds;        ///< where the time went, in order
  std::vector<std::string> next;    ///< commands to try, each perhaps with "# what it shows"
  std::vector<std::pair<std::string, std::string>> settings;
};

/// "0.873 ±0.021"
std::string with_error(double rate, double error);
std::string story_page(const Story&);

}  // namespace facet::app
