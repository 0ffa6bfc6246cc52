#include "app/notebook.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>

#include "tensor/error.h"

extern char** environ;

namespace facet::app {
namespace {

int to_int(std::string_view s) {
  int value = 0;
  std::from_chars(s.data(), s.data() + s.size(), value);
  return value;
}

void trim_blank_lines(Cell& cell) {
  while (cell.source.starts_with('\n')) cell.source.erase(0, 1), ++cell.first_line;
  while (cell.source.ends_with("\n\n")) cell.source.pop_back(), --cell.last_line;
}

}  // namespace

std::vector<Cell> read_cells(const std::string& text, const std::string& name) {
  std::vector<Cell> cells;
  std::optional<Cell> open;
  const auto close = [&](int last_line) {
    if (!open) return;
    open->last_line = last_line;
    trim_blank_lines(*open);
    if (!open->source.empty() && open->source != "\n") cells.push_back(std::move(*open));
    open.reset();
  };
  int number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    if (line.ends_with('\r')) line.pop_back();
    begin = end + 1;
    ++number;
    if (line.starts_with("// %%")) {
      close(number - 1);
      const bool markdown = line.find("[markdown]") != std::string::npos;
      const bool raw = line.find("active=\"cpp\"") != std::string::npos;
      open = Cell{markdown ? Cell::Kind::markdown : raw ? Cell::Kind::raw : Cell::Kind::code, number + 1, number, "", 0};
    } else if (open) {
      if (open->kind == Cell::Kind::markdown) line = line.starts_with("// ") ? line.substr(3) : line == "//" ? "" : line;
      else if (line.starts_with("NB_CELL")) open->marked_line = number;
      open->source += line + "\n";
    }
  }
  close(number);
  if (cells.empty()) fail(Kind::file, "{}: no cell found; a lesson has lines \"// %% [markdown]\" and \"// %%\"", name);
  return cells;
}

NotebookRun read_records(std::string_view text) {
  NotebookRun run;
  int line = 0;
  auto kind = Output::Kind::text;
  const auto add = [&](std::string_view content) {
    if (content.find_first_not_of("\n ") == std::string_view::npos) return;
    run.cells[line].push_back({kind, std::string(content), true});
  };
  while (!text.empty()) {
    const size_t mark = std::min(text.find('\x1e'), text.size());
    add(text.substr(0, mark));
    if (mark == text.size()) break;
    const size_t end = std::min(text.find('\n', mark), text.size());
    const std::string_view header = text.substr(mark + 1, end - mark - 1);
    const size_t space = std::min(header.find(' '), header.size());
    const std::string_view name = header.substr(0, space), rest = header.substr(std::min(space + 1, header.size()));
    text.remove_prefix(std::min(end + 1, text.size()));
    kind = name == "html" ? Output::Kind::html : Output::Kind::text;
    if (name == "cell") {
      line = to_int(rest);
      run.cells[line];  // it ran, even if it prints nothing
    } else if (name == "check") {
      const bool holds = rest.starts_with("ok ");
      ++(holds ? run.held : run.failed);
      run.cells[line].push_back({Output::Kind::check, std::string(rest.substr(std::min(rest.find(' ') + 1, rest.size()))), holds});
    } else if (name == "error") {
      run.error = rest;
    } else if (name == "end") {
      run.finished = true;
    }
  }
  return run;
}

std::string run_and_read(const std::vector<std::string>& command, int& code) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) fail(Kind::environment, "{}: no pipe: {}", command[0], std::strerror(errno));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  std::vector<char*> argv;
  for (const std::string& a : command) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  pid_t child = 0;
  const int error = posix_spawn(&child, command[0].c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (error != 0) {
    close(ends[0]);
    fail(Kind::file, "{}: cannot be started: {}; is the lesson built?", command[0], std::strerror(error));
  }
  constexpr size_t limit = 64 << 20;
  std::string out;
  char block[1 << 16];
  for (;;) {
    const ssize_t n = read(ends[0], block, sizeof block);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0 || out.size() > limit) break;
    out.append(block, static_cast<size_t>(n));
  }
  close(ends[0]);  // a program that still writes gets SIGPIPE
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (out.size() > limit) fail(Kind::check, "{}: wrote more than {} MiB; a lesson's page should fit a browser", command[0], limit >> 20);
  code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return out;
}

void check_same_version(const std::vector<Cell>& cells, const NotebookRun& run, const std::string& notebook, const std::string& program) {
  for (const auto& [line, outputs] : run.cells) {
    const bool known = std::any_of(cells.begin(), cells.end(), [&](const Cell& c) { return c.marked_line == line; });
    if (line != 0 && !known) fail(Kind::file, "{}: printed a cell of line {}, but {} has no NB_CELL there; build it again", program, line, notebook);
  }
  if (!run.finished) return;
  for (const Cell& c : cells)
    if (c.marked_line && !run.cells.count(c.marked_line))
      fail(Kind::file, "{}:{}: this cell never ran in {}; build it again", notebook, c.marked_line, program);
}

}  // namespace facet::app
