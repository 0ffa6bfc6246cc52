// docs/ as plain HTML: the pages that can be reached by links from docs/index.md, in a folder that needs no server and no network.
#pragma once
#include <string>
#include <vector>

namespace facet::app {

struct Site {
  int pages = 0, lessons = 0;         ///< lessons: with the outputs of a run
  std::vector<std::string> problems;  ///< "docs/start.md:12: no such file: ../gone.md"; a good site has none
};

/// Follows links from `docs`/index.md through the repository `docs` lies in, and writes what it meets into `out`, which appears whole or,
/// when there are problems, not at all. Markdown becomes pages; sources become pages with numbered lines; a folder is its README.md, or a list of
/// its files. A lesson is its page in `lessons` (made by `facet report --notebook`), or its source where there is none. Names of files in
/// `code` become links, too.
///
/// A problem is a link to a file or an anchor that does not exist, and a fence that names its source ("```cpp docs/examples/chat.cpp") but holds
/// lines that are not there; and, on pages of `docs` itself, a measured figure that nobody could take again (app/figures.h). Throws Error(Kind::file) when there is no index, Error(Kind::usage) when `out` holds something else than a site.
Site write_site(const std::string& docs, const std::string& lessons, const std::string& out);

}  // namespace facet::app
