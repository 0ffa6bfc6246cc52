#include "notebooks-cpp/nb.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>

#include "tensor/error.h"
#include "tensor/gpu/runtime.h"
#include "tensor/parallel.h"

#if defined(FACET_NB_KERNEL) && __has_include("xcpp/xdisplay.hpp")
#include "xcpp/xdisplay.hpp"
#define FACET_NB_DISPLAY
#endif

namespace nb {

struct State {
  bool records = false, quick = false, brief = false;
  facet::Device device = facet::Device::cpu;
  int held = 0, failed = 0, left_out = 0;
  int pictures = 0;
};
inline State& state() {
  static State s;
  return s;
}

// A record is \x1e, its kind, a space, the rest of the line. What follows is text of that kind up to the next record.
void record(const char* kind, std::string rest = "") {
  for (char& c : rest)
    if (c == '\n' || c == '\x1e') c = ' ';
  std::cout.flush();
  std::printf("\x1e%s %s\n", kind, rest.c_str());
  std::fflush(stdout);
}

[[noreturn]] void stop_on_exception() {
  std::string what = "an exception of an unknown type";
  if (const std::exception_ptr e = std::current_exception()) {
    try {
      std::rethrow_exception(e);
    } catch (const std::exception& x) {
      what = x.what();
    } catch (...) {
    }
  }
  if (state().records) record("error", what);
  std::cout.flush();
  std::fflush(stdout);
  std::fprintf(stderr, "the lesson stopped: %s\n", what.c_str());
  std::_Exit(1);
}

void open_device(const std::string& name) {
  if (name == "cpu") return;
  if (name != "cuda") facet::fail(facet::Kind::usage, "--device {}: expected cpu or cuda", name);
  facet::gpu::device();
  state().device = facet::Device::gpu;
}

void start(int argc, char** argv) {
  facet::spin_briefly(argv);
  std::set_terminate(stop_on_exception);
  try {
    for (int i = 1; i < argc; ++i) {
      const std::string arg = argv[i];
      if (arg == "--quick") state().quick = true;
      else if (arg == "--brief") state().quick = state().brief = true;
      else if (arg == "--records") state().records = true;
      else if (arg == "--device" && i + 1 < argc) open_device(argv[++i]);
      else facet::fail(facet::Kind::usage, "usage: {} [--quick|--brief] [--device cpu|cuda] [--records]", argv[0]);
    }
  } catch (const facet::Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    std::exit(e.exit_code());
  }
}

int finish() {
  const State& s = state();
  if (s.records) record("end", std::to_string(s.held) + " " + std::to_string(s.failed));
  else std::printf("\n%d checks hold, %d do not\n", s.held, s.failed);
  if (s.left_out && !s.records) std::printf("%d more were left out: they are about models that have learned (--brief)\n", s.left_out);
  return s.failed ? 1 : 0;
}

void cell(int line) {
  if (state().records) record("cell", std::to_string(line));
}

bool quick() { return state().quick; }
bool brief() { return state().brief; }
int steps(int whole, int quick) { return brief() ? std::min(quick, 2) : nb::quick() ? quick : whole; }
facet::Device device() { return state().device; }

bool check(bool holds, const std::string& claim) {
  State& s = state();
  ++(holds ? s.held : s.failed);
  if (s.records) {
    record("check", (holds ? "ok " : "failed ") + claim);
    record("text");
  } else {
    std::cout.flush();
    std::printf("%s  %s\n", holds ? "    ok" : "FAILED", claim.c_str());
    std::fflush(stdout);
  }
  return holds;
}

bool check_learned(bool holds, const std::string& claim) {
  if (!brief()) return check(holds, claim);
  ++state().left_out;
  std::cout.flush();
  std::printf("  left out  %s\n", claim.c_str());
  std::fflush(stdout);
  return holds;
}

#ifdef FACET_NB_DISPLAY
struct Picture {
  std::string html;
};
inline nl::json mime_bundle_repr(const Picture& p) { return {{"text/html", p.html}}; }
#endif

// Kernels with a display hook get the picture, records the HTML, a terminal a line in its place.
void show(const std::string& html, const std::string& title) {
  ++state().pictures;
#if defined(FACET_NB_DISPLAY)
  (void)title;
  xcpp::display(Picture{html});
#elif defined(FACET_NB_KERNEL)
  const std::string path = "picture_" + std::to_string(state().pictures) + ".html";
  if (std::FILE* f = std::fopen(path.c_str(), "w")) {
    std::fputs(html.c_str(), f);
    std::fclose(f);
    std::cout << title << ": " << path << std::endl;
  }
#else
  if (!state().records) {
    std::printf("[picture: %s]\n", title.c_str());
    return;
  }
  record("html");
  std::fputs(html.c_str(), stdout);
  std::fputc('\n', stdout);
  record("text");
#endif
}

void plot(const std::vector<Curve>& curves, const Axes& axes) { show(plot_svg(curves, axes), axes.title); }
void bars(const std::vector<std::string>& labels, const std::vector<Bars>& bars, const Axes& axes) { show(bars_svg(labels, bars, axes), axes.title); }
void heatmap(const std::vector<double>& values, int columns, const Axes& axes) {
  show(heatmap_svg(values, columns, axes), axes.title);
}
void graph(const Graph& g) { show(graph_svg(g), g.title); }

void table(const std::vector<std::string>& head, const std::vector<std::vector<std::string>>& rows) {
#ifndef FACET_NB_KERNEL
  if (!state().records) {  // columns as wide as their widest entry; a table is worth reading in a terminal too
    std::vector<size_t> width(head.size(), 0);
    const auto each = [&](auto&& f) {
      f(head);
      for (const auto& row : rows) f(row);
    };
    each([&](const auto& row) {
      for (size_t i = 0; i < head.size() && i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
    });
    each([&](const auto& row) {
      for (size_t i = 0; i < head.size() && i < row.size(); ++i)
        std::printf("%s%*s", i ? "  " : "", static_cast<int>(i ? width[i] : 0) - (i ? 0 : static_cast<int>(width[i])), row[i].c_str());
      std::printf("\n");
    });
    return;
  }
#endif
  show(table_html(head, rows), "table");
}

}  // namespace nb
