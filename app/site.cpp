#include "app/site.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <set>

#include "app/figures.h"
#include "app/html.h"
#include "tensor/error.h"
#include "tensor/io/durable.h"
#include "tensor/io/file.h"

namespace facet::app {
namespace fs = std::filesystem;
namespace {

constexpr const char* marker = "pages.txt";  // lists the pages, and tells a site from other folders

struct Page {
  std::string source;            // from the repository's root
  std::string target;            // from the site's
  std::string title, body;       // HTML whose links still name sources
  bool whole = false;            // body is a page already
  std::set<std::string> anchors;
};

struct Reference {  // a link as found
  const Page* from;
  std::string url, file, anchor;
};

std::string extension_of(const std::string& path) { return fs::path(path).extension().string(); }
bool is_cpp(const std::string& path) {
  const std::string e = extension_of(path);
  return e == ".h" || e == ".hpp" || e == ".cpp" || e == ".cu";
}
bool is_lesson(const std::string& path) {
  const fs::path p = path;
  return p.parent_path() == "notebooks-cpp" && p.extension() == ".cpp" && std::isdigit(static_cast<unsigned char>(p.filename().string()[0]));
}

// Calls change(url) for every link of a page and puts what it returns in the link's place.
std::string change_links(const std::string& html, const std::function<std::string(const std::string&)>& change) {
  static const std::string mark = "<a href=\"";
  std::string out;
  size_t done = 0;
  for (size_t at; (at = html.find(mark, done)) != std::string::npos;) {
    at += mark.size();
    const size_t end = html.find('"', at);
    out += html.substr(done, at - done) + change(html.substr(at, end - at));
    done = end;
  }
  return out + html.substr(done);
}

// The same for every `code` outside of links and blocks: what file(text) names becomes a link to it.
std::string link_code(const std::string& html, const std::function<std::string(const std::string&)>& file) {
  std::string out;
  size_t done = 0;
  int inside = 0;  // of links and blocks
  for (size_t at; (at = html.find('<', done)) != std::string::npos;) {
    out += html.substr(done, at - done);
    done = at;
    const std::string_view rest = std::string_view(html).substr(at);
    if (rest.starts_with("<a ") || rest.starts_with("<pre>")) ++inside;
    if (rest.starts_with("</a>") || rest.starts_with("</pre>")) --inside;
    if (!inside && rest.starts_with("<code>")) {
      const size_t end = html.find("</code>", at);
      const std::string text = html.substr(at + 6, end - at - 6), found = file(text);
      out += found.empty() ? "<code>" + text + "</code>" : fmt::format("<a href=\"{}\"><code>{}</code></a>", found, text);
      done = end + 7;
    } else {
      out += '<';
      ++done;
    }
  }
  return out + html.substr(done);
}

// The lines of a text without indentation and empty ones, each ended: what a quotation is compared by.
std::string bare_lines(const std::string& text) {
  std::string out = "\n";
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const size_t first = text.find_first_not_of(" \t", begin), last = text.find_last_not_of(" \t\r", end - 1);
    if (first < end && end > begin) out += text.substr(first, last + 1 - first) + "\n";
    begin = end + 1;
  }
  return out;
}

int line_of(const std::string& text, size_t at) { return 1 + static_cast<int>(std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n')); }

class Builder {
 public:
  Builder(const std::string& docs, const std::string& lessons) : root_(fs::absolute(docs).lexically_normal()), lessons_(lessons) {
    if (root_.filename().empty()) root_ = root_.parent_path();
    index_ = (root_.filename() / "index.md").string();
    root_ = root_.parent_path();
    if (!fs::exists(root_ / index_)) fail(Kind::file, "{}: there is no index.md; it is where the site begins", docs);
  }

  void collect() {
    page_of(index_);
    while (!open_.empty()) {
      Page& page = *open_.front();
      open_.pop_front();
      read(page);
      const bool first = page.source == index_;
      change_links(page.body, [&](const std::string& url) {
        const std::string target = follow(page, url);
        if (first && !target.empty() && target != index_ && std::find(order_.begin(), order_.end(), target) == order_.end()) order_.push_back(target);
        return url;
      });
    }
    for (const Reference& r : references_) {
      const Page& to = pages_.at(r.file);
      if (!r.anchor.empty() && !to.anchors.count(r.anchor)) problem(*r.from, r.url, fmt::format("no #{} in {}", r.anchor, r.file));
    }
  }

  void write(const std::string& folder) {
    std::string list;
    for (const auto& [source, page] : pages_) {
      const fs::path path = fs::path(folder) / page.target;
      make_folders(path.parent_path().string());
      write_file_atomically(path.string(), finished(page));
      list += page.target + "  " + source + "\n";
    }
    write_file_atomically(folder + "/" + marker, list);
  }

  Site site;

 private:
  // The page of a file or folder of the repository, noted for reading when it is new; null when there is none.
  Page* page_of(const std::string& path) {
    const fs::path full = root_ / path;
    if (fs::is_directory(full)) {
      const std::string readme = (fs::path(path) / "README.md").lexically_normal().string();
      if (fs::exists(root_ / readme)) return page_of(readme);
    } else if (!fs::is_regular_file(full) || fs::file_size(full) > (1 << 20)) {
      return nullptr;
    }
    const auto [at, fresh] = pages_.try_emplace(path);
    Page& page = at->second;
    if (!fresh) return &page;
    page.source = path;
    const fs::path p = path;
    if (path == index_) page.target = "index.html";
    else if (fs::is_directory(full)) page.target = (p / "index.html").string();
    else if (p.extension() == ".md" || is_lesson(path)) page.target = fs::path(p).replace_extension(".html").string();
    else page.target = path + ".html";
    open_.push_back(&page);
    return &page;
  }

  // From the folder of a page to a path from the root; empty when it leaves the repository.
  std::string resolve(const Page& from, const std::string& relative) const {
    const std::string path = (fs::path(from.source).parent_path() / relative).lexically_normal().string();
    if (path.starts_with("..") || path.starts_with("/")) return "";
    return path.ends_with('/') ? path.substr(0, path.size() - 1) : path;
  }

  // The page a link leads to, noting what is wrong with it; empty for links that leave the site.
  std::string follow(const Page& page, const std::string& url) {
    if (url.starts_with("http:") || url.starts_with("https:")) return "";
    const size_t hash = std::min(url.find('#'), url.size());
    const std::string file = hash == 0 ? page.source : resolve(page, url.substr(0, hash));
    const Page* to = file.empty() ? nullptr : page_of(file);
    if (!to) {
      problem(page, url, "no such file: " + url);
      return "";
    }
    references_.push_back({&page, url, to->source, url.substr(std::min(hash + 1, url.size()))});
    return to->source;
  }

  void problem(const Page& page, const std::string& quoted, const std::string& what) {
    const std::string text = read_file((root_ / page.source).string());
    const size_t at = text.find("](" + quoted);
    site.problems.push_back(fmt::format("{}:{}: {}", page.source, at == std::string::npos ? 1 : line_of(text, at), what));
  }

  void read(Page& page) {
    ++site.pages;
    const fs::path full = root_ / page.source;
    if (fs::is_directory(full)) {
      list_folder(page);
    } else if (extension_of(page.source) == ".md") {
      read_markdown(page);
    } else if (const fs::path made = lessons_ / fs::path(page.source).filename().replace_extension(".html");
               is_lesson(page.source) && !lessons_.empty() && fs::exists(made)) {
      ++site.lessons;
      page.whole = true;
      page.body = read_file(made.string(), 64 << 20);
      const size_t title = page.body.find("<title>") + 7;
      page.title = page.body.substr(title, page.body.find("</title>") - title);  // HTML already
      for (size_t at = 0; (at = page.body.find(" id=\"", at)) != std::string::npos;) {
        at += 5;
        page.anchors.insert(page.body.substr(at, page.body.find('"', at) - at));
      }
    } else {
      read_source(page);
    }
  }

  void list_folder(Page& page) {
    std::vector<std::string> names;
    for (const auto& e : fs::directory_iterator(root_ / page.source))
      if (e.is_regular_file() && e.path().filename().string()[0] != '.') names.push_back(e.path().filename().string());
    std::sort(names.begin(), names.end());
    page.title = page.source + "/";
    page.body = "<h1>" + escape_html(page.title) + "</h1>\n<ul>\n";
    const std::string folder = fs::path(page.source).filename().string();
    for (const std::string& name : names) page.body += fmt::format("<li><a href=\"{}/{}\">{}</a></li>\n", escape_html(folder), escape_html(name), escape_html(name));
    page.body += "</ul>\n";
  }

  void read_markdown(Page& page) {
    const std::string text = read_file((root_ / page.source).string());
    check_quotations(page, text);
    if (fs::path(page.source).parent_path() == fs::path(index_).parent_path())
      for (const UnnamedFigure& f : figures_without_source(text)) site.problems.push_back(fmt::format("{}:{}: {}", page.source, f.line, f.what));
    for (const Heading& h : headings_of(text)) {
      if (page.title.empty()) page.title = h.text;
      page.anchors.insert(h.id);
    }
    page.body = link_code(markdown_to_html(text), [&](const std::string& name) -> std::string {
      if (name.find_first_of("./") == std::string::npos || name.find_first_of(" <>&*{},()=:\"'") != std::string::npos || name[0] == '.') return "";
      for (const std::string& base : {fs::path(page.source).parent_path().string(), std::string()}) {
        const std::string path = (fs::path(base) / name).lexically_normal().string();
        const bool file = fs::is_regular_file(root_ / path), folder = fs::exists(root_ / path / "README.md");
        if (path == page.source || path.starts_with("..") || path.starts_with("build") || !(file || folder)) continue;
        return fs::path(path).lexically_relative(fs::path(page.source).parent_path()).string();
      }
      return "";
    });
  }

  void read_source(Page& page) {
    const std::string text = read_file((root_ / page.source).string());
    page.title = page.source;
    std::string code;
    int line = 0;
    const std::string html = is_cpp(page.source) ? cpp_to_html(text) : escape_html(text);
    for (size_t begin = 0; begin < html.size();) {
      const size_t end = std::min(html.find('\n', begin), html.size() - 1) + 1;
      const std::string anchor = fmt::format("L{}", ++line);
      code += fmt::format("<span id=\"{}\"></span>", anchor) + html.substr(begin, end - begin);
      page.anchors.insert(anchor);
      begin = end;
    }
    page.body = "<h1>" + escape_html(page.source) + "</h1>\n<pre><code>" + code + "</code></pre>\n";
  }

  void check_quotations(const Page& page, const std::string& text) {
    static const std::string fence = "\n```cpp ";
    for (size_t at = 0; (at = text.find(fence, at)) != std::string::npos;) {
      const size_t name = at + fence.size(), begin = text.find('\n', name) + 1, end = std::min(text.find("\n```", begin), text.size());
      const std::string source = text.substr(name, begin - 1 - name), place = fmt::format("{}:{}", page.source, line_of(text, name));
      if (!fs::is_regular_file(root_ / source)) site.problems.push_back(fmt::format("{}: no such file: {}", place, source));
      else if (bare_lines(read_file((root_ / source).string())).find(bare_lines(text.substr(begin, end - begin))) == std::string::npos)
        site.problems.push_back(fmt::format("{}: these lines are not in {}", place, source));
      at = end;
    }
  }

  std::string link(const Page& from, const Page& to) const {
    return fs::path(to.target).lexically_relative(fs::path(from.target).parent_path()).string();
  }

  // Links name pages now, and the page says where it stands in the reading order and what it was made from.
  std::string finished(const Page& page) {
    const std::string body = change_links(page.body, [&](const std::string& url) {
      const std::string to = url[0] == '#' ? "" : follow(page, url);
      return to.empty() ? url : link(page, pages_.at(to)) + url.substr(std::min(url.find('#'), url.size()));
    });
    std::string top, bottom;
    if (page.source != index_) {
      const auto at = std::find(order_.begin(), order_.end(), page.source);
      const auto neighbour = [&](const char* word, const std::string& source) {
        const Page& p = pages_.at(source);
        return fmt::format(" · {}: <a href=\"{}\">{}</a>", word, link(page, p), p.whole ? p.title : escape_html(p.title));
      };
      top = fmt::format("<p class=\"status\"><a href=\"{}\">Facet</a>", link(page, pages_.at(index_)));
      if (at != order_.end() && at != order_.begin()) top += neighbour("before", at[-1]);
      if (at != order_.end() && at + 1 != order_.end()) top += neighbour("next", at[1]);
      top += "</p>\n";
    }
    bottom = "<p class=\"status\">Made from <code>" + escape_html(page.source) + "</code>";
    if (page.whole) {
      const std::string name = fs::path(page.source).stem().string();
      bottom += fmt::format(" and every figure on it by <code>facet report --notebook {} --run build/notebooks/{}</code>", escape_html(page.source), name);
    }
    bottom += ".</p>\n";
    if (!page.whole) return html_page(page.title, top + body + bottom);
    const size_t begin = body.find("<body>\n") + 7, end = body.rfind("</body>");
    return body.substr(0, begin) + top + body.substr(begin, end - begin) + bottom + body.substr(end);
  }

  fs::path root_, lessons_;
  std::string index_;
  std::map<std::string, Page> pages_;  // by source
  std::deque<Page*> open_;
  std::vector<Reference> references_;
  std::vector<std::string> order_;  // of reading: the index's links
};

}  // namespace

Site write_site(const std::string& docs, const std::string& lessons, const std::string& out) {
  if (fs::exists(out) && !(fs::is_directory(out) && (fs::is_empty(out) || fs::exists(fs::path(out) / marker))))
    fail(Kind::usage, "--out {}: exists and is no site made by this command ({} is missing); choose another name", out, marker);
  Builder builder(docs, lessons);
  builder.collect();
  if (builder.site.problems.empty()) {
    StagedFolder folder(out);
    builder.write(folder.path());
    folder.commit(true);
  }
  return builder.site;
}

}  // namespace facet::app
