// Whether a page of docs/ says where its figures come from: a reader must be able to take them again.
#pragma once
#include <string>
#include <vector>

namespace facet::app {

struct UnnamedFigure {
  int line;
  std::string what;  ///< what is missing
};

/// What looks measured in a Markdown text, and has no source. Measured are tables of which half the cells or more are numbers, and sentences with a
/// rate, a duration or a size in bytes. The source stands in the same section (from one heading to the next): a command in `code` or a
/// fence, or the word "predicted", for arithmetic. Where a page opens with a paragraph about all its figures or tables that has one, it holds
/// for the page. A table with a column "command" says it in every row.
std::vector<UnnamedFigure> figures_without_source(const std::string& markdown);

}  // namespace facet::app
