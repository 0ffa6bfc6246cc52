// What lessons print with: cells, checks that must hold, and pictures. A lesson is an ordinary program. Run by hand it prints
// text and one line per check. With --records it also marks where each cell's output begins and prints the pictures as
// HTML; `facet report` reads that (app/notebook.h). In a C++ REPL kernel the cells run as they are and pictures are displayed.
//
// Everything here draws in currentColor and half-transparent hues, so a picture is readable on a light and on a dark page.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "tensor/view.h"

// xeus-cling and xeus-cpp announce themselves; for another kernel, define FACET_NB_KERNEL before the include.
#if (defined(__CLING__) || defined(__CLANG_REPL__)) && !defined(FACET_NB_KERNEL)
#define FACET_NB_KERNEL
#endif

/// First line of every code cell inside main. Only this line's number ties the program to its source.
#ifdef FACET_NB_KERNEL
#define NB_CELL
#else
#define NB_CELL ::nb::cell(__LINE__);
#endif

namespace nb {

/// Reads --quick, --brief, --device cpu|cuda and --records. Ends the program with exit code 2 on anything else, with 5 and a message when
/// there is no GPU to compute on.
void start(int argc, char** argv);
/// The exit code: 0 when every check held.
int finish();
void cell(int line);
/// True with --quick: fewer steps and points, the same checks. --brief is at least as quick.
bool quick();
/// True with --brief: everything is computed, on a few rows, and no model learns. That takes seconds where a GPU is emulated.
bool brief();
/// How many steps a model is trained for: `whole`, with --quick `quick`, with --brief never more than two.
int steps(int whole, int quick);
inline int steps(int whole) { return steps(whole, whole); }
/// Of --device: where a lesson makes its f32 tensors. What needs f64, gradient checks above all, stays on the CPU: the GPU has none.
facet::Device device();
/// A claim of the lesson. A false one is shown red and makes finish() return 1; the program goes on. Returns `holds`.
bool check(bool holds, const std::string& claim);
/// A claim about what training leads to. As check(); a brief run, whose models have learned nothing, leaves it out and counts it.
bool check_learned(bool holds, const std::string& claim);

struct Curve {
  std::string name;
  std::vector<double> x, y;  ///< values that are not finite, or not positive on a logarithmic axis, leave a gap
  bool dots = false;         ///< points instead of a line
};
struct Axes {
  std::string title, x, y;
  bool log_x = false, log_y = false;
};
void plot(const std::vector<Curve>&, const Axes& = {});

/// values[row * columns + column], the first row on top. Hue tells the sign, strength the size.
void heatmap(const std::vector<double>& values, int columns, const Axes& = {});

/// Columns side by side over the same labels, e.g. a histogram before and after.
struct Bars {
  std::string name;
  std::vector<double> values;  ///< one per label, >= 0
};
void bars(const std::vector<std::string>& labels, const std::vector<Bars>&, const Axes& = {});

void table(const std::vector<std::string>& head, const std::vector<std::vector<std::string>>& rows);

/// Boxes and arrows, from left to right. An arrow goes from an earlier box to a later one.
struct Graph {
  struct Box {
    std::string text;                ///< lines separated by \n, the first one bold
    bool input = false;              ///< drawn as a place where the graph begins
  };
  std::string title;
  std::vector<Box> boxes;
  std::vector<std::pair<int, int>> arrows;
};
void graph(const Graph&);

// ---- the pictures as text
std::string plot_svg(const std::vector<Curve>&, const Axes&);
std::string bars_svg(const std::vector<std::string>& labels, const std::vector<Bars>&, const Axes&);
std::string heatmap_svg(const std::vector<double>& values, int columns, const Axes&);
std::string graph_svg(const Graph&);
std::string table_html(const std::vector<std::string>& head, const std::vector<std::vector<std::string>>& rows);
std::string escape(const std::string& text);  ///< & < > " for HTML

}  // namespace nb

#ifdef FACET_NB_KERNEL  // a kernel compiles what it includes and links nothing
#include "notebooks-cpp/nb.cpp"
#include "notebooks-cpp/nb_pictures.cpp"
#endif
