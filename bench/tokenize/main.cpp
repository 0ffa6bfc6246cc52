// Tokenising a text file against the library alone: bench_tokenize FILE TOKENIZER. Ours checks UTF-8, cuts lines or blocks, and keeps every
// token with its place; the library gets the same text line by line, as spm_encode does.
#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <filesystem>
#include <fstream>

#include "bench/support/race.h"
#include "data/dataset.h"
#include "data/jsonl.h"
#include "tensor/io/file.h"
#include "tensor/parallel.h"

using namespace facet;

int main(int argc, char** argv) {
  if (argc != 3) {
    fmt::print(stderr, "usage: bench_tokenize FILE.txt TOKENIZER\n");
    return 2;
  }
  try {
    set_threads(1);  // the clock is then this thread's own
    const std::string path = argv[1];
    const Tokenizer tokenizer = Tokenizer::load(argv[2]);
    sentencepiece::SentencePieceProcessor library;
    if (!library.LoadFromSerializedProto(tokenizer.bytes()).ok()) return 1;
    const auto megabytes = static_cast<double>(std::filesystem::file_size(path)) / 1e6;
    size_t counts[3] = {};
    const auto alone = [&] {
      std::ifstream in(path);
      std::vector<int> ids, all;
      for (std::string line; std::getline(in, line); all.insert(all.end(), ids.begin(), ids.end()))
        if (!library.Encode(line, &ids).ok()) std::exit(1);
      counts[0] = all.size();
      return megabytes;
    };
    const auto by_line = [&] {
      LineReader lines(path);
      Ids all;
      for (std::string line; lines.next(line);) {
        const Ids ids = tokenizer.encode(line);
        all.insert(all.end(), ids.begin(), ids.end());
      }
      counts[1] = all.size();
      return megabytes;
    };
    const auto as_data = [&] {
      const Dataset d = read_dataset(path, tokenizer, {.format = Task::document, .use_prepared = false});
      counts[2] = 0;
      for (int64_t i = 0; i < d.size(); ++i) counts[2] += d[i].ids.size() - 1;  // all but bos
      return megabytes;
    };
    const auto rates = bench::race({alone, by_line, as_data}, 0.1, 6);
    fmt::print("{:<34} {:>10} {:>10} {:>8}\n", "", "tokens", "MB/s", "ratio");
    const char* names[] = {"library, line by line", "Tokenizer, line by line", "read_dataset, as one document"};
    for (size_t i = 0; i < 3; ++i) fmt::print("{:<34} {:>10} {:>10.2f} {:>8.2f}\n", names[i], counts[i], rates[i] * 1e9, rates[i] / rates[0]);
    return 0;
  } catch (const Error& e) {
    fmt::print(stderr, "bench_tokenize: {}\n", e.what());
    return 1;
  }
}
