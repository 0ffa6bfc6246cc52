// What a run writes beside its metrics: TensorBoard's event files and a table. Both follow metrics.jsonl through a resume, and a full disk
// leaves whole records.
#include "train/run_folder.h"

#include <catch2/catch.hpp>

#include <sys/resource.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <csignal>
#include <cstring>

#include "tensor/io/crc32c.h"
#include "tensor/io/file.h"
#include "tests/support/temp_folder.h"

using namespace facet;
using namespace facet::test;
namespace fs = std::filesystem;

namespace {

template <class T>
T number_at(const std::string& bytes, size_t at) {
  REQUIRE(at + sizeof(T) <= bytes.size());
  T v;
  std::memcpy(&v, bytes.data() + at, sizeof v);
  return v;
}

uint32_t masked(const std::string& bytes, size_t begin, size_t n) {
  const uint32_t crc = crc32c_by_table(bytes.data() + begin, n);
  return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

/// The payloads of a file, every length and checksum verified; throws when one is wrong.
std::vector<std::string> payloads_of(const std::string& bytes) {
  std::vector<std::string> list;
  for (size_t at = 0; at < bytes.size();) {
    const auto n = static_cast<size_t>(number_at<uint64_t>(bytes, at));
    if (number_at<uint32_t>(bytes, at + 8) != masked(bytes, at, 8)) throw std::runtime_error("length");
    if (number_at<uint32_t>(bytes, at + 12 + n) != masked(bytes, at + 12, n)) throw std::runtime_error("payload");
    list.push_back(bytes.substr(at + 12, n));
    at += 16 + n;
  }
  return list;
}

/// A protobuf message: its fields by number, varints and fixed values as their bytes say.
struct Message {
  std::vector<std::pair<uint64_t, std::string>> fields;
  explicit Message(const std::string& bytes) {
    size_t at = 0;
    const auto varint = [&] {
      uint64_t v = 0;
      for (int shift = 0;; shift += 7) {
        const auto byte = number_at<uint8_t>(bytes, at++);
        v |= static_cast<uint64_t>(byte & 0x7f) << shift;
        if (byte < 0x80) return v;
      }
    };
    while (at < bytes.size()) {
      const uint64_t key = varint();
      std::string value;
      if ((key & 7) == 0) {
        const uint64_t v = varint();
        value.assign(reinterpret_cast<const char*>(&v), 8);
      } else {
        const size_t n = (key & 7) == 1 ? 8 : (key & 7) == 5 ? 4 : static_cast<size_t>(varint());
        REQUIRE(at + n <= bytes.size());
        value = bytes.substr(at, n);
        at += n;
      }
      fields.emplace_back(key >> 3, value);
    }
  }
  std::string operator[](uint64_t number) const {
    for (const auto& [n, v] : fields)
      if (n == number) return v;
    return "";
  }
};

std::vector<std::string> event_files(const std::string& run) {
  std::vector<std::string> list;
  for (const auto& e : fs::directory_iterator(run + "/tb")) list.push_back(e.path().string());
  std::sort(list.begin(), list.end());
  return list;
}

/// Lowers what a file may grow to; a write beyond it fails as on a full disk.
struct FullDisk {
  rlimit before;
  void (*handler)(int);
  explicit FullDisk(rlim_t bytes) : handler(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before);
    const rlimit less{bytes, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &less);
  }
  ~FullDisk() {
    setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, handler);
  }
};

}  // namespace

TEST_CASE("event file: lengths, checksums and fields of every record") {
  // As TensorBoard's own writer frames it (tensorboard.summary.writer.record_writer).
  CHECK(tf_record("facet") == std::string("\x05\x00\x00\x00\x00\x00\x00\x00\xea\xb2\x04\x3e" "facet" "\xff\xe9\x66\xbe", 21));
  CHECK(payloads_of(tf_record("a") + tf_record(std::string(300, 'b'))) == std::vector<std::string>{"a", std::string(300, 'b')});
  std::string broken = tf_record("abc");
  broken[13] ^= 1;
  CHECK_THROWS(payloads_of(broken));

  const TempFolder t;
  RunFolder run(t / "run", false);
  run.metrics(1, "train", {{"loss", 2.5}, {"lr", 1e-3}});
  run.metrics(300, "valid", {{"loss", NAN}});
  run.sample(300, {{"a", "b"}, {"c", "d"}});
  const auto files = event_files(t / "run");
  REQUIRE(files.size() == 1);
  const auto records = payloads_of(read_file(files[0]));
  REQUIRE(records.size() == 4);
  CHECK(Message(records[0])[3] == "brain.Event:2");
  const Message train(records[1]);
  CHECK(number_at<double>(train[1], 0) > 1.6e9);
  CHECK(number_at<uint64_t>(train[2], 0) == 1);
  const Message summary(train[5]);
  REQUIRE(summary.fields.size() == 2);
  CHECK(Message(summary.fields[0].second)[1] == "train/loss");
  CHECK(number_at<float>(Message(summary.fields[0].second)[2], 0) == 2.5f);
  CHECK(Message(summary.fields[1].second)[1] == "train/lr");
  const Message valid(records[2]);
  CHECK(number_at<uint64_t>(valid[2], 0) == 300);
  CHECK(std::isnan(number_at<float>(Message(Message(valid[5])[1])[2], 0)));
  const Message text{Message(Message(records[3])[5])[1]};
  CHECK(text[1] == "samples");
  CHECK(Message(text[8])[8] == "a => b  \nc => d  \n");
  CHECK(Message(Message(text[9])[1])[1] == "text");
}

TEST_CASE("event file: a resumed run writes another, which takes back the steps that come again") {
  const TempFolder t;
  {
    RunFolder run(t / "run", false);
    for (int step = 1; step <= 5; ++step) run.metrics(step, "train", {{"loss", step}});
  }
  RunFolder run(t / "run", true);
  run.rewind(3);
  run.metrics(4, "train", {{"loss", 40}});
  const auto files = event_files(t / "run");
  REQUIRE(files.size() == 2);  // within the same second, and yet in this order
  CHECK(payloads_of(read_file(files[0])).size() == 6);
  const auto records = payloads_of(read_file(files[1]));
  REQUIRE(records.size() == 3);
  const Message again(records[1]);
  CHECK(number_at<uint64_t>(again[2], 0) == 4);
  CHECK(number_at<uint64_t>(Message(again[7])[1], 0) == 1);  // START
  CHECK(number_at<uint64_t>(Message(records[2])[2], 0) == 4);
}

TEST_CASE("metrics.csv: columns keep their places, a resume leaves what metrics.jsonl holds") {
  const TempFolder t;
  const std::string csv = t / "run/metrics.csv";
  {
    RunFolder run(t / "run", false);
    run.metrics(0, "valid", {{"loss", 3}});
    run.metrics(1, "train", {{"grad_norm", 0.5}, {"loss", 2.5}});
    CHECK(read_file(csv) == "step,kind,loss,grad_norm\n0,valid,3,\n1,train,2.5,0.5\n");
    run.metrics(2, "train", {{"grad_norm", INFINITY}, {"loss", NAN}, {"reward.exec:a,\"b\"", 1}});
    CHECK(read_file(csv) == "step,kind,loss,grad_norm,\"reward.exec:a,\"\"b\"\"\"\n0,valid,3,,\n1,train,2.5,0.5,\n2,train,nan,inf,1\n");
    run.metrics(3, "train", {{"loss", 1}});
  }
  RunFolder run(t / "run", true);
  run.rewind(2);
  CHECK(read_file(csv) == "step,kind,loss,grad_norm,\"reward.exec:a,\"\"b\"\"\"\n0,valid,3,,\n1,train,2.5,0.5,\n2,train,nan,inf,1\n");
  run.metrics(3, "train", {{"loss", 0.1}});
  CHECK(read_file(csv).ends_with("3,train,0.1,,\n"));
  run.rewind(-1);
  CHECK(read_file(csv) == "step,kind\n");
}

TEST_CASE("run folder: a full disk ends nothing and leaves whole records") {
  const TempFolder t;
  std::vector<std::string> said;
  {
    RunFolder run(t / "run", false);
    run.watcher = [&](const std::string& line, bool) { said.push_back(line); };
    run.metrics(1, "train", {{"loss", 1}});
    {
      const FullDisk full(100);
      for (int step = 2; step < 12; ++step) run.metrics(step, "train", {{"loss", step}, {"late", 1}});
      run.sample(11, {{std::string(500, 'x'), ""}});
    }
    run.metrics(12, "train", {{"loss", 12}, {"late", 1}});
  }
  CHECK(said.size() == 4);  // metrics.jsonl, metrics.csv, tb, samples: once each
  for (const std::string& line : said) CHECK_THAT(line, Catch::StartsWith("warning: " + t / "run/") && Catch::Contains("File too large"));
  const std::string metrics = read_file(t / "run/metrics.jsonl"), csv = read_file(t / "run/metrics.csv");
  CHECK_THAT(metrics, Catch::StartsWith("{\"kind\":\"train\",\"loss\":1.0,\"step\":1}\n") && Catch::EndsWith("{\"kind\":\"train\",\"late\":1.0,\"loss\":12.0,\"step\":12}\n"));
  CHECK_THAT(csv, Catch::StartsWith("step,kind,loss") && Catch::EndsWith("\n12,train,12,1\n"));
  std::string last;
  for (const std::string& file : event_files(t / "run"))
    for (const std::string& record : payloads_of(read_file(file))) last = record;
  CHECK(number_at<uint64_t>(Message(last)[2], 0) == 12);
}
