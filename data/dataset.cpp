#include "data/dataset.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "data/jsonl.h"
#include "data/prepared.h"
#include "data/shuffle.h"
#include "tensor/io/file.h"
#include "tensor/io/text.h"

namespace facet {

namespace {

int64_t positions(const Example& e) { return static_cast<int64_t>(e.ids.size()) - 1; }

// "train.jsonl:9: " in front of what encode_chat and others say.
[[noreturn]] void rethrow_at(const std::string& where, const Error& e) { throw Error(e.kind(), where + ": " + e.what()); }

void cut(Example& e, int64_t max_len) {
  e.ids.resize(static_cast<size_t>(max_len) + 1);
  e.mask.resize(e.ids.size());
}

Example joined(const Tokenizer& t, const Row& row, const std::vector<Message>& answer, const DataOptions& o) {
  if (row.is_chat || o.chat_template) {
    std::vector<Message> messages = row.prompt;
    messages.insert(messages.end(), answer.begin(), answer.end());
    return encode_chat(t, messages, {.merge_roles = o.merge_roles, .safe = o.safe, .learn_from = row.prompt.size()});
  }
  Example e = begin_sequence(t);
  const std::string& prompt = row.prompt[0].parts[0].text;
  e.add(o.safe ? t.encode_without_tags(prompt) : t.encode(prompt), false);
  e.add(t.encode(answer[0].parts[0].text), true);
  if (t.specials().eos >= 0) e.add(t.specials().eos, true);
  return e;
}

// Pieces of some 4 KiB (the library slows down on longer ones: of 64 KiB it does a quarter less), cut behind a line end where no run of whitespace is torn.
std::vector<std::string_view> blocks(std::string_view text) {
  constexpr size_t target = size_t{4} << 10;
  std::vector<std::string_view> r;
  while (text.size() > target) {
    size_t at = target;
    while (at < text.size() && !(text[at - 1] == '\n' && text[at] != '\n' && text[at] != ' ' && text[at] != '\t')) ++at;
    r.push_back(text.substr(0, at));
    text.remove_prefix(at);
  }
  r.push_back(text);
  return r;
}

std::string read_document(const std::string& path) {
  std::string text;
  try {
    text = read_file(path, uint64_t{1} << 30);
  } catch (const Error& e) {
    throw Error(Kind::data, e.what());
  }
  if (text.starts_with("\xEF\xBB\xBF")) text.erase(0, 3);
  if (const size_t at = invalid_utf8(text); at != text.npos) fail(Kind::data, "{}: byte {}: invalid UTF-8", path, grouped(at + 1));
  std::erase(text, '\r');
  return text;
}

bool is_document(const std::string& path, const DataOptions& o) {
  return o.format ? *o.format == Task::document : path.ends_with(".txt");
}

// Calls use(row, line) for each good row; counts the bad ones and gives up when they are too many.
template <class Use>
void for_each_row(const std::string& path, const DataOptions& o, DataReport& report, Use use) {
  LineReader lines(path);
  std::string line;
  std::optional<Task> task = o.format;
  for (;;) {
    if (o.limit > 0 && report.used >= o.limit) return;
    try {
      if (!lines.next(line)) return;
      Row row = parse_row(line, lines.where(), o.keys, task ? &*task : nullptr);
      task = row.task;
      use(row, line, lines);
      ++report.rows;
    } catch (const Error& e) {
      if (e.kind() != Kind::data) throw;
      ++report.rows;
      if (report.bad >= o.max_bad_rows)
        fail(Kind::data, "{}; {} of max {} bad rows allowed (--max-bad-rows)", e.what(), report.bad, o.max_bad_rows);
      ++report.bad;
      if (report.bad_rows.size() < 5) report.bad_rows.push_back(e.what());
    }
  }
}

template <class Use>
void each_text(const Row& row, Use use) {
  use(row.text);
  for (const std::vector<Message>* list : {&row.prompt, &row.answer, &row.rejected})
    for (const Message& m : *list)
      for (const Part& p : m.parts) use(p.text);
}

// Whoever renders a chat template into the text has bos in it, and a model sees two: spelled in ordinary pieces where the tokenizer does not
// match it in text, as itself where it does.
void refuse_bos(const Tokenizer& t, std::string_view text, bool safe, const std::string& where) {
  const int32_t bos = t.specials().bos;
  if (bos < 0 || (safe && t.type(bos) == PieceType::control) || text.find(t.piece(bos)) == text.npos) return;
  fail(Kind::data, "{}: the text holds {}, which every sequence begins with anyway; take it out{}", where, t.piece(bos),
       t.type(bos) == PieceType::control ? " (with --safe it is ordinary text)" : "");
}

// What a pair must be for one half to be preferred.
void check_pair(const std::vector<Example>& pair, const Tokenizer& t, const RowKeys& keys, const std::string& where) {
  const std::string* names[] = {&keys.chosen, &keys.rejected};
  for (size_t half = 0; half < 2; ++half) {
    const Example& e = pair[half];
    bool said = false;  // something besides the end of the answer
    for (size_t i = 1; i < e.ids.size(); ++i) said = said || (e.mask[i] && e.ids[i] != t.specials().eos && e.ids[i] != t.specials().end_of_turn);
    if (!said) fail(Kind::data, "{}: \"{}\" is empty, spaces aside", where, *names[half]);
  }
  if (pair[0].ids == pair[1].ids) fail(Kind::data, "{}: \"{}\" and \"{}\" are identical, spaces aside", where, keys.chosen, keys.rejected);
}

std::string find_split(const std::string& folder, const char* name) {
  for (const char* ending : {".jsonl", ".txt"})
    if (const std::string path = fmt::format("{}/{}{}", folder, name, ending); std::filesystem::exists(path)) return path;
  return "";
}

}  // namespace

const char* name_of(TooLong t) { return t == TooLong::drop ? "drop" : t == TooLong::truncate ? "truncate" : "split"; }

// ---- rows to sequences

std::vector<Example> encode_row(const Tokenizer& t, const Row& row, const DataOptions& o) {
  std::vector<Example> r;
  switch (row.task) {
    case Task::text:
    case Task::document: {
      Example e = begin_sequence(t);
      e.add(t.encode(row.text), true);
      if (t.specials().eos >= 0) e.add(t.specials().eos, true);
      r.push_back(std::move(e));
      break;
    }
    case Task::chat: r.push_back(encode_chat(t, row.prompt, {.merge_roles = o.merge_roles, .safe = o.safe})); break;
    case Task::completion: r.push_back(joined(t, row, row.answer, o)); break;
    case Task::preference:
      r.push_back(joined(t, row, row.answer, o));
      r.push_back(joined(t, row, row.rejected, o));
      break;
    case Task::prompt:
      if (row.is_chat || o.chat_template) {
        r.push_back(encode_chat(t, row.prompt, {.generation_prompt = true, .merge_roles = o.merge_roles, .safe = o.safe}));
      } else {
        Example e;
        e.add(encode_prompt(t, row.prompt[0].parts[0].text), false);
        r.push_back(std::move(e));
      }
      break;
  }
  if (o.learn_prompt && row.task != Task::prompt)
    for (Example& e : r) std::fill(e.mask.begin(), e.mask.end(), 1);
  return r;
}

std::vector<Example> encode_document(const Tokenizer& t, std::string_view text, int64_t max_len, bool end) {
  std::vector<Example> r;
  Example window = begin_sequence(t);
  const auto add = [&](int32_t id) {
    window.add(id, true);
    if (positions(window) < max_len) return;
    r.push_back(std::move(window));
    window = begin_sequence(t);
  };
  for (const std::string_view block : blocks(text))
    for (const int32_t id : t.encode(block)) add(id);
  if (end && t.specials().eos >= 0) add(t.specials().eos);
  if (window.supervised() > 0) r.push_back(std::move(window));
  return r;
}

// ---- Dataset

Dataset::View Dataset::operator[](int64_t i) const {
  if (i < 0 || i >= size()) fail(Kind::usage, "dataset: example {} of {}", i, size());
  const size_t at = static_cast<size_t>(i), begin = at == 0 ? 0 : ends_[at - 1], n = ends_[at] - begin;
  return {{ids_.data() + begin, n}, {mask_.data() + begin, n}, lines_[at]};
}

const std::string& Dataset::row(int64_t i) const {
  if (i < 0 || i >= static_cast<int64_t>(rows_.size())) fail(Kind::usage, "dataset: row {} of {}", i, rows_.size());
  return rows_[static_cast<size_t>(i)];
}

uint64_t Dataset::fingerprint() const {
  uint64_t h = 0xcbf29ce484222325u;  // FNV-1a
  const auto mix = [&h](uint64_t v) { h = (h ^ v) * 0x100000001b3u; };
  for (size_t i = 0; i < ids_.size(); ++i) mix(static_cast<uint64_t>(static_cast<uint32_t>(ids_[i])) << 1 | mask_[i]);
  for (const size_t end : ends_) mix(end);
  return h;
}

void Dataset::add(const Example& e, int64_t line) {
  ids_.insert(ids_.end(), e.ids.begin(), e.ids.end());
  mask_.insert(mask_.end(), e.mask.begin(), e.mask.end());
  ends_.push_back(ids_.size());
  lines_.push_back(line);
}

Dataset Dataset::part(std::span<const int64_t> examples) const {
  Dataset r;
  r.task_ = task_;
  r.path_ = path_;
  for (const int64_t i : examples) {
    const View v = (*this)[i];
    r.add({Ids(v.ids.begin(), v.ids.end()), {v.mask.begin(), v.mask.end()}}, v.line);
    if (!rows_.empty()) r.rows_.push_back(row(i));
  }
  r.report_.rows = r.report_.used = r.size() / r.group();
  return r;
}

Dataset read_dataset(const std::string& path, const Tokenizer& t, const DataOptions& o) {
  if (o.max_len < 1) fail(Kind::usage, "max length {} must be at least 1", o.max_len);
  Dataset d;
  if (o.use_prepared && std::filesystem::exists(path) && std::filesystem::exists(prepared_path(path)))
    if (auto prepared = read_prepared(path, prepared_key(path, t, o), t.vocab_size(), d.report_.not_prepared)) return std::move(*prepared);
  d.path_ = path;
  DataReport& report = d.report_;
  if (is_document(path, o)) {
    d.task_ = Task::document;
    report.rows = 1;
    const std::string text = read_document(path);
    refuse_bos(t, text, o.safe, path);
    for (const Example& e : encode_document(t, text, o.max_len)) {
      d.add(e, d.size() + 1);
      report.longest = std::max(report.longest, positions(e));
      report.shortest = positions(e);  // the last window's
    }
    report.used = d.size() > 0;
    if (d.size() == 0) fail(Kind::data, "{}: the text is empty", path);
  } else {
    report.shortest = INT64_MAX;
    for_each_row(path, o, report, [&](Row& row, std::string& line, const LineReader& lines) {
      d.task_ = row.task;
      each_text(row, [&](const std::string& s) { refuse_bos(t, s, o.safe, lines.where()); });
      std::vector<Example> examples;
      try {
        if (row.task == Task::text && o.too_long == TooLong::split) examples = encode_document(t, row.text, o.max_len, true);
        else examples = encode_row(t, row, o);
      } catch (const Error& e) {
        if (e.kind() != Kind::data) throw;
        rethrow_at(lines.where(), e);
      }
      int64_t longest = 0;
      for (const Example& e : examples) {
        longest = std::max(longest, positions(e) + (row.task == Task::prompt));  // the last token of a prompt is not just a label
        if (row.task != Task::prompt && e.supervised() == 0)
          fail(Kind::data, "{}: example {} has no tokens to learn ({}); complete the row or remove it", lines.where(), d.size() / d.group() + 1,
               row.task == Task::chat ? "no turn of the model?" : "empty text?");
      }
      if (row.task == Task::preference) check_pair(examples, t, o.keys, lines.where());
      for (const std::string& key : row.other_keys)
        if (row.task != Task::prompt && report.ignored_keys.size() < 32) ++report.ignored_keys[key];
      report.shortest = std::min(report.shortest, longest);
      report.longest = std::max(report.longest, longest);
      if (longest > o.max_len) {
        if (o.too_long != TooLong::truncate || row.task == Task::prompt) {
          ++report.too_long;
          return;
        }
        for (Example& e : examples)
          if (positions(e) > o.max_len) cut(e, o.max_len);
        const bool alike = row.task == Task::preference && examples[0].ids == examples[1].ids;
        if (alike || std::any_of(examples.begin(), examples.end(), [](const Example& e) { return e.supervised() == 0; })) {
          ++report.no_target;
          return;
        }
        ++report.truncated;
      }
      for (const Example& e : examples) d.add(e, lines.number());
      if (row.task == Task::prompt) d.add_row(line);
      ++report.used;
    });
    if (report.rows > 0 && report.too_long == report.rows)
      fail(Kind::data, "{}: 0 of {} rows fit max length {} (shortest {}); raise --max-len", path, grouped(report.rows), o.max_len, report.shortest);
    if (report.used == 0)
      fail(Kind::data, "{}: 0 usable rows of {} (reasons: bad {}, too long {}, no target {})", path, grouped(report.rows), report.bad,
           report.too_long, report.no_target);
  }
  const int32_t unk = t.specials().unk;
  report.unknown_tokens = std::count(d.ids_.begin(), d.ids_.end(), unk);
  return d;
}

Splits read_splits(const std::string& path, const Tokenizer& t, const DataOptions& o) {
  Splits s;
  if (std::filesystem::is_directory(path)) {
    const std::string train = find_split(path, "train"), valid = find_split(path, "valid"), test = find_split(path, "test");
    if (train.empty()) fail(Kind::data, "{}: holds no train.jsonl (or train.txt)", path);
    s.train = read_dataset(train, t, o);
    if (!valid.empty()) s.valid = read_dataset(valid, t, o);
    if (!test.empty()) s.test = read_dataset(test, t, o);
    if (!valid.empty()) return s;
  } else {
    s.train = read_dataset(path, t, o);
  }
  if (o.val_frac < 0 || o.val_frac >= 1) fail(Kind::usage, "validation share {} must be at least 0 and below 1", o.val_frac);
  const int64_t group = s.train.group(), n = s.train.size() / group;
  const auto kept = static_cast<int64_t>(std::llround(static_cast<double>(n) * o.val_frac));
  if (kept == 0 || kept == n) {
    if (o.val_frac > 0) fail(Kind::data, "{}: {} rows cannot give a share of {} for validation", path, n, o.val_frac);
    return s;
  }
  // Rows at random; of a document the end, because neighbouring windows share sentences.
  std::vector<int64_t> order(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) order[static_cast<size_t>(i)] = i;
  if (s.train.task() != Task::document) order = shuffled(n, o.seed, ShuffleUse::validation, 0);
  std::vector<int64_t> train(order.begin(), order.end() - kept), valid(order.end() - kept, order.end());
  std::vector<int64_t> examples[2];
  const std::vector<int64_t>* parts[2] = {&train, &valid};
  std::sort(train.begin(), train.end());
  std::sort(valid.begin(), valid.end());
  for (int p = 0; p < 2; ++p)
    for (const int64_t r : *parts[p])
      for (int64_t g = 0; g < group; ++g) examples[p].push_back(r * group + g);
  s.valid = s.train.part(examples[1]);
  s.train = s.train.part(examples[0]);
  return s;
}

std::vector<std::string> data_files(const std::string& path) {
  if (!std::filesystem::is_directory(path)) return {path};
  std::vector<std::string> files;
  for (const char* name : {"train", "valid", "test"})
    if (std::string file = find_split(path, name); !file.empty()) files.push_back(std::move(file));
  if (files.empty() || !std::filesystem::path(files[0]).filename().string().starts_with("train"))
    fail(Kind::data, "{}: holds no train.jsonl (or train.txt)", path);
  return files;
}

std::vector<std::string> read_texts(const std::string& path, const DataOptions& o) {
  const std::string file = std::filesystem::is_directory(path) ? find_split(path, "train") : path;
  if (file.empty()) fail(Kind::data, "{}: holds no train.jsonl (or train.txt)", path);
  if (is_document(file, o)) return {read_document(file)};
  std::vector<std::string> texts;
  bool chats = false;
  DataReport report;
  for_each_row(file, o, report, [&](Row& row, std::string&, const LineReader&) {
    each_text(row, [&](const std::string& s) { texts.push_back(s); });
    texts.push_back(row.expected);
    chats = chats || row.is_chat || row.task == Task::chat || (o.chat_template && row.task != Task::text);
  });
  if (report.bad > 0 && report.bad == report.rows) fail(Kind::data, "{}", report.bad_rows[0]);
  std::erase(texts, "");
  if (chats) texts.push_back("user\nmodel\n\n");  // what the template puts between them
  return texts;
}

// ---- accounts

std::string DataReport::summary() const {
  std::string s = fmt::format("{} of {} rows used", grouped(static_cast<uint64_t>(used)), grouped(static_cast<uint64_t>(rows)));
  const std::pair<const char*, int64_t> counts[] = {{"bad", bad}, {"too long", too_long}, {"no target left", no_target}, {"truncated", truncated}};
  for (const auto& [what, n] : counts)
    if (n > 0) s += fmt::format(", {} {}", what, grouped(static_cast<uint64_t>(n)));
  if (unknown_tokens > 0) s += fmt::format("\n{} tokens are unknown to the tokenizer", grouped(static_cast<uint64_t>(unknown_tokens)));
  for (const auto& [key, n] : ignored_keys) s += fmt::format("\nkey \"{}\" ignored in {} rows", printable(key, 40), grouped(static_cast<uint64_t>(n)));
  for (const std::string& bad_row : bad_rows) s += "\nskipped " + bad_row;
  if (prepared) s += "\ntokens as prepared";
  if (!not_prepared.empty()) s += "\n" + not_prepared;
  return s;
}

DataStats stats(const Dataset& d) {
  DataStats s;
  s.examples = d.size() / d.group();
  std::vector<int64_t> lengths;
  std::map<int32_t, int64_t> counts;
  for (int64_t i = 0; i < d.size(); ++i) {
    const auto v = d[i];
    s.tokens += static_cast<int64_t>(v.ids.size());
    lengths.push_back(static_cast<int64_t>(v.ids.size()) - (d.task() != Task::prompt));
    for (size_t k = 1; k < v.ids.size(); ++k)
      if (v.mask[k]) ++counts[v.ids[k]], ++s.supervised, s.rejected += d.group() == 2 && i % 2 == 1;
  }
  for (const auto& [id, n] : counts) {
    const double p = static_cast<double>(n) / static_cast<double>(s.supervised);
    s.entropy -= p * std::log(p);
  }
  std::sort(lengths.begin(), lengths.end());
  if (!lengths.empty()) {
    s.shortest = lengths.front();
    s.longest = lengths.back();
    s.median = lengths[lengths.size() / 2];
    s.p95 = lengths[lengths.size() * 95 / 100];
  }
  return s;
}

std::string preview(const Dataset& d, const Tokenizer& t, int64_t sequence, std::string_view open, std::string_view close) {
  const auto v = d[sequence];
  const auto learned = std::count(v.mask.begin() + !v.mask.empty(), v.mask.end(), 1);
  const char* half = d.group() == 1 ? "" : sequence % 2 == 0 ? ", chosen" : ", rejected";
  std::string s = fmt::format("example {}{} ({}:{}): {} tokens, {} learned; ids {}{}\n", sequence / d.group() + 1, half, d.path(), v.line, v.ids.size(), learned,
                              fmt::join(v.ids.first(std::min<size_t>(v.ids.size(), 8)), " "), v.ids.size() > 8 ? " ..." : "");
  StreamDecoder decoder(t);
  bool inside = false;
  for (size_t i = 0; i < v.ids.size(); ++i) {
    const bool learn = i > 0 && v.mask[i];
    if (learn != inside) {
      s.append(decoder.finish()).append(learn ? open : close);
      inside = learn;
    }
    const PieceType type = t.type(v.ids[i]);  // these two decode to nothing people would recognise
    if (type == PieceType::control || type == PieceType::unknown) s += decoder.finish() + t.piece(v.ids[i]);
    else s += decoder.push(v.ids[i]);
  }
  s += decoder.finish();
  if (inside) s += close;
  return s;
}

}  // namespace facet
