// Text to HTML, for pages the program writes: everything is escaped, and markup in the text stays text.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace facet::app {

/// A whole page around a body: one file without scripts, fonts or links to elsewhere, readable on light and dark screens.
std::string html_page(std::string_view title, std::string_view body);

/// & < > " and ' as entities.
std::string escape_html(std::string_view);

/// The part of Markdown that lessons use: headings, paragraphs, lists (one level), quotes, tables, fenced code, and inline `code`,
/// *emphasis*, **strong** and [links](https://...). A link that is neither http(s), relative nor an anchor becomes plain text.
std::string markdown_to_html(std::string_view);

struct Heading {
  int level;
  std::string text, html, id;  ///< as written; rendered; the anchor markdown_to_html gives it
};
std::vector<Heading> headings_of(std::string_view markdown);

/// C++ with spans of the classes k (keyword), s (text), c (comment), n (number), p (preprocessor).
std::string cpp_to_html(std::string_view source);

}  // namespace facet::app
