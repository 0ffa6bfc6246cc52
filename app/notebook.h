// A lesson: its source as cells (jupytext's percent format) and what its program printed, cell by cell (notebooks-cpp/nb.hpp).
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace facet::app {

struct Cell {
  enum class Kind { markdown, code, raw };  ///< raw: main() and its end, which only a compiler sees
  Kind kind;
  int first_line, last_line;  ///< in the source, from 1, without the "// %%" line
  std::string source;         ///< markdown without the leading "// "
  int marked_line = 0;        ///< where NB_CELL stands; 0: nothing runs here
};
/// Throws Error(Kind::file) naming `name` when the text holds no cell.
std::vector<Cell> read_cells(const std::string& text, const std::string& name);

struct Output {
  enum class Kind { text, html, check };
  Kind kind;
  std::string content;
  bool holds = true;  ///< for a check
};

struct NotebookRun {
  std::map<int, std::vector<Output>> cells;  ///< by the line of NB_CELL; 0: before the first one
  int held = 0, failed = 0;
  bool finished = false;
  std::string error;  ///< the exception that ended it
  bool good() const { return finished && failed == 0; }
};
/// What a program called with --records wrote.
NotebookRun read_records(std::string_view);

/// Runs a program without a shell, standard error passed through, and returns its standard output. Throws Error(Kind::file) when
/// it cannot be started, Error(Kind::check) when it writes more than 64 MiB. The exit code goes to `code`, 128 + n for signal n.
std::string run_and_read(const std::vector<std::string>& command, int& code);

/// Throws Error(Kind::file) when the program was built from another version of the source: a marked line that is no NB_CELL, or,
/// in a run that reached its end, an NB_CELL that never ran.
void check_same_version(const std::vector<Cell>&, const NotebookRun&, const std::string& notebook, const std::string& program);

}  // namespace facet::app
