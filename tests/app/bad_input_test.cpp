// What people get wrong, and what they are told: exit code, the parts of the message (what, where, expected, found, next step), one
// line on standard error, nothing written, in time.
#include <catch2/catch.hpp>

#include <nlohmann/json.hpp>

#include "tests/app/process.h"
#include "tests/support/temp_folder.h"
#include "tests/support/zip_maker.h"

using namespace facet::test;
using Words = std::vector<std::string>;
using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

namespace {

// A model folder that is good, and copies of it that are not.
struct Setting : TempFolder {
  std::string header;  // of the good weights
  std::string data;
  Json list;

  Setting() {
    REQUIRE(run_process({"data", "make", "radicals", "--out", *this / "data", "--n", "30"}, *this / "log") == 0);
    REQUIRE(run_process({"init", *this / "m", "--data", *this / "data", "--set", "model.num_hidden_layers=2", "--set", "model.hidden_size=16",
                         "--set", "model.intermediate_size=32", "--set", "model.max_position_embeddings=40"},
                        *this / "log") == 0);
    const std::string file = content_of(*this / "m/model.safetensors");
    uint64_t n = 0;
    std::memcpy(&n, file.data(), 8);
    header = file.substr(8, n);
    data = file.substr(8 + n);
    list = Json::parse(header);
  }
  std::string copy() const {
    static int count = 0;
    const std::string to = *this / ("m" + std::to_string(count++));
    fs::copy(*this / "m", to);
    return to;
  }
  static void put(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }
  static std::string framed(const std::string& header, const std::string& data) {
    const uint64_t n = header.size();
    return std::string(reinterpret_cast<const char*>(&n), 8) + header + data;
  }
  std::string with_weights(const std::string& bytes) const {
    const std::string to = copy();
    put(to + "/model.safetensors", bytes);
    return to;
  }
  std::string with_list(const std::function<void(Json&)>& change) const {
    Json l = list;
    change(l);
    return with_weights(framed(l.dump(), data));
  }
  // Weights without some tensors, and no hole where they were.
  std::string without(const std::string& part) const {
    Json l = Json::object();
    std::string kept;
    for (const auto& [name, entry] : list.items()) {
      if (name.find(part) != std::string::npos) continue;
      l[name] = entry;
      if (name == "__metadata__") continue;
      const size_t begin = entry["data_offsets"][0], end = entry["data_offsets"][1];
      l[name]["data_offsets"] = {kept.size(), kept.size() + end - begin};
      kept += data.substr(begin, end - begin);
    }
    return with_weights(framed(l.dump(), kept));
  }
  std::string with_torch_file(const std::string& bytes) const {
    const std::string to = copy();
    fs::remove(to + "/model.safetensors");
    put(to + "/pytorch_model.bin", bytes);
    return to;
  }
  std::string with_config(const std::string& key, const Json& value) const {
    const std::string to = copy();
    Json c = Json::parse(content_of(to + "/config.json"));
    c[key] = value;
    put(to + "/config.json", c.dump());
    return to;
  }
  std::string rows(const std::string& text) const {
    static int count = 0;
    return write("rows" + std::to_string(count++) + ".jsonl", text);
  }

  // Runs and checks everything that all rows share.
  void refused(const Words& words, int code, const std::vector<std::string>& parts) const {
    const auto before = kept_files();
    const double before_it = seconds_of_children();
    const int got = run_process(words, *this / "log");
    const double seconds = seconds_of_children() - before_it;
    const std::string said = content_of(*this / "log");
    std::string line;
    for (const std::string& w : words) line += w + " ";
    INFO(line << "\n" << said);
    CHECK(got == code);
    CHECK(seconds < 20);  // of a processor, which neighbours slow down; a step of this size would take hours
    for (const std::string& part : parts) {
      INFO("missing: " << part);
      CHECK(said.find(part) != std::string::npos);
    }
    CHECK(said.find("This is a defect") == std::string::npos);
    CHECK(said.find("terminate") == std::string::npos);
    const size_t last = said.rfind("facet: ");
    REQUIRE(last != std::string::npos);
    CHECK(said.find('\n', last) == said.size() - 1);  // one line
    CHECK(kept_files() == before);
  }
  // Of the processor: a clock would measure what else the machine does.
  static double seconds_of_children() {
    rusage u{};
    ::getrusage(RUSAGE_CHILDREN, &u);
    const auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec); };
    return seconds(u.ru_utime) + seconds(u.ru_stime);
  }
  // All there is, without what every start of a run may add to.
  std::map<std::string, std::string> kept_files() const {
    auto files = files_of(path.string());
    for (const char* name : {"log", "run/lock", "run/console.log"}) files.erase(name);
    return files;
  }
  void model_refused(const std::string& folder, const std::vector<std::string>& parts) const {
    refused({"generate", folder, "-p", "x", "--raw", "-n", "1"}, 3, parts);
  }
  void data_refused(const std::string& text, const std::vector<std::string>& parts, Words more = {}) const {
    Words w = {"sft", *this / "m", "--data", rows(text), "--out", *this / "run", "--steps", "1"};
    w.insert(w.end(), more.begin(), more.end());
    refused(w, 4, parts);
  }
};

}  // namespace

TEST_CASE("bad input: model folders") {
  const Setting s;
  const std::string tensor = "model.layers.1.mlp.up_proj.weight";
  s.model_refused(s / "nowhere", {"nowhere", "no such folder", "config.json, model.safetensors", "facet init"});
  s.refused({"sft", s / "nowhere", "--data", s / "data", "--out", s / "run"}, 3, {"no such folder"});
  s.refused({"sft", s.with_weights("abc"), "--data", s / "data", "--out", s / "run"}, 3, {"truncated"});
  s.model_refused(s / "m/config.json", {"is a file", "expected the folder"});
  {
    const std::string m = s.copy();
    fs::remove(m + "/model.safetensors");
    s.model_refused(m, {m, "safetensors", "found: config.json"});
  }
  {
    const std::string m = s.copy();
    fs::remove(m + "/config.json");
    s.model_refused(m, {"config.json"});
  }
  {
    const std::string m = s.copy();
    fs::remove(m + "/tokenizer.model");
    s.model_refused(m, {"tokenizer.model"});
    s.model_refused((Setting::put(m + "/tokenizer.model", "not a tokenizer"), m), {"tokenizer.model"});
  }
  s.model_refused(s.with_weights("abc"), {"model.safetensors", "3", "truncated"});
  s.model_refused(s.with_weights(std::string("\xff\xff\xff\xff\xff\0\0\0{}", 10)), {"header", "1,099,511,627,775", "truncated"});
  s.model_refused(s.with_weights(Setting::framed(s.header, s.data.substr(0, 1000))), {"model.safetensors", "truncated"});
  s.model_refused(s.with_weights(Setting::framed(s.header.substr(0, 300), s.data)), {"model.safetensors", "byte"});
  s.model_refused(s.with_weights(Setting::framed("[" + s.header, s.data)), {"header"});
  const std::string text = s.list.dump();
  s.model_refused(s.with_weights(Setting::framed(text.substr(0, text.size() - 1) + ",\"" + tensor + "\":" + s.list[tensor].dump() + "}", s.data)),
                  {"model.safetensors: header byte ", "duplicate tensor name \"" + tensor + "\""});
  s.model_refused(s.with_list([&](Json& l) { l.erase(tensor); }), {"model.safetensors", "data begin at byte", "expected", "a hole in the data"});
  s.model_refused(s.with_list([&](Json& l) {
                    for (Json& at : l[tensor]["data_offsets"]) at = at.get<int64_t>() - 64;
                  }),
                  {"model.safetensors: tensor \"" + tensor + "\"", "an overlap in the data"});
  s.model_refused(s.without("layers.1.mlp.up"), {"model: missing \"" + tensor + "\"; expected [32, 16] F32"});
  s.model_refused(s.without("layers.1.mlp"), {"model: missing \"model.layers.1.mlp.", "; expected [", "] F32; 2 more"});
  {
    Json l = s.list;
    l["model.extra.weight"] = {{"dtype", "F32"}, {"shape", {2}}, {"data_offsets", {s.data.size(), s.data.size() + 8}}};
    s.model_refused(s.with_weights(Setting::framed(l.dump(), s.data + std::string(8, '\0'))), {"\"model.extra.weight\" is no weight of Gemma 3"});
  }
  s.model_refused(s.with_list([&](Json& l) {
                    Json moved = l[tensor];
                    l.erase(tensor);
                    l["model.layers.1.mlp.zap.weight"] = moved;
                  }),
                  {"\"model.layers.1.mlp.zap.weight\" is no weight of Gemma 3"});
  s.model_refused(s.with_list([&](Json& l) { std::swap(l[tensor]["shape"][0], l[tensor]["shape"][1]); }),
                  {tensor, "config asks for [32, 16]", "the file has [16, 32]"});
  s.model_refused(s.with_list([&](Json& l) { l[tensor]["dtype"] = "BF16"; }), {tensor, "BF16", "needs 1,024 bytes", "2,048"});
  s.model_refused(s.with_config("num_hidden_layers", 3), {"layer_types lists 2 layers, num_hidden_layers is 3"});
  {
    const std::string m = s.with_config("num_hidden_layers", 3);
    Json c = Json::parse(content_of(m + "/config.json"));
    c["layer_types"].push_back("full_attention");
    Setting::put(m + "/config.json", c.dump());
    s.model_refused(m, {"3 layers, weights hold 2", "wrong config.json?"});
  }
  s.model_refused(s.with_config("hidden_size", 24), {"config asks for", "24"});
  s.model_refused(s.with_config("num_attention_heads", 0), {"num_attention_heads", "0"});
  s.model_refused(s.with_config("vocab_size", 3), {"config asks for [3, 16]"});
  s.model_refused(s.with_config("architectures", Json::array({"LlamaForCausalLM"})), {"LlamaForCausalLM"});
  {
    const std::string m = s.copy();
    fs::remove(m + "/model.safetensors");
    Setting::put(m + "/model.safetensors.index.json", R"({"metadata":{},"weight_map":{"model.norm.weight":"model-00002-of-00003.safetensors"}})");
    s.model_refused(m, {"index", "model-00002-of-00003.safetensors", "not found"});
    Setting::put(m + "/model.safetensors.index.json", R"({"metadata":{},"weight_map":{"model.norm.weight":"../../etc/passwd"}})");
    s.model_refused(m, {"index", ".."});
  }
  {
    // A tokenizer with more pieces than the embedding has rows.
    REQUIRE(run_process({"init", s / "wide", "--tokenizer", "char:0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"}, s / "log") == 0);
    const std::string m = s.copy();
    fs::copy(s / "wide/tokenizer.model", m + "/tokenizer.model", fs::copy_options::overwrite_existing);
    s.model_refused(m, {"the tokenizer has", "pieces, the embedding", "rows"});
    // Fewer pieces than rows are no mistake: embeddings are padded.
    REQUIRE(run_process({"init", s / "padded", "--data", s / "data", "--set", "model.vocab_size=24"}, s / "log") == 0);
    CHECK(run_process({"generate", s / "padded", "-p", "2", "--raw", "-n", "1"}, s / "log") == 0);
  }
  // PyTorch files that do more than hold tensors, or are older than their present form.
  const std::string call = pickle::global("os", "system") + pickle::tuple({pickle::text("touch " + s / "harm")}) + "R";
  s.model_refused(s.with_torch_file(torch_of(pickle::program(call), {})),
                  {"pytorch_model.bin: pickle refers to \"os.system\" - not a tensor file, refused", "Convert to safetensors with a tool you trust"});
  s.model_refused(s.with_torch_file("\x80\x02\x8a\nl\xfc\x9c\x46\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."), {"pytorch_model.bin: a bare pickle", "before 1.6 is not supported", "re-save it"});
  s.model_refused(s.with_torch_file("sys_info" + std::string(249, '\0') + "ustar" + std::string(600, '\0')), {"pytorch_model.bin: a tar archive", "re-save it"});
}

TEST_CASE("bad input: datasets") {
  const Setting s;
  const std::string good = "{\"prompt\": \"√(2·3)=\", \"completion\": \"√(2·3)\"}\n";
  s.data_refused(good + "{\"prompt\": \"\\x\"}\n", {".jsonl:2: column", "--max-bad-rows"});
  s.data_refused(good + "{\"prompt\": \"2\"}\n", {".jsonl:2"});
  s.data_refused("{\"messages\": \"hello\"}\n", {".jsonl:1", "\"messages\" must be a non-empty list; found string"});
  s.data_refused("{\"messages\": []}\n", {".jsonl:1", "\"messages\" must be a non-empty list; found an empty list"});
  s.data_refused("{\"messages\": [{\"role\":\"user\",\"content\":\"2\"}]}\n", {".jsonl:1", "no tokens to learn (no turn of the model?)"});
  s.data_refused("{\"prompt\": 3, \"completion\": \"2\"}\n", {".jsonl:1", "\"prompt\" must be a string; found number"});
  s.data_refused("{\"messages\": [{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"},{\"role\":\"user\",\"content\":\"c\"},"
                 "{\"role\":\"user\",\"content\":\"d\"}]}\n", {".jsonl:1", "\"user\" after \"user\""});
  s.data_refused("{\"prompt\": \"\xc3\x28\", \"completion\": \"2\"}\n", {".jsonl:1: byte 13: invalid UTF-8"});
  CHECK(run_process({"data", "check", s.rows("\xef\xbb\xbf" + good), "--model", s / "m"}, s / "log") == 0);  // a byte order mark is no mistake
  s.data_refused(good, {"0 of 1 rows fit max length 2", "shortest", "--max-len"}, {"--max-len", "2"});
  s.data_refused(good, {"0 usable rows of 1 (reasons: bad 0, too long 0, no target 1)"}, {"--max-len", "4", "--too-long", "truncate"});
  s.data_refused("", {".jsonl: 0 usable rows of 0"});
  s.data_refused("\n\n", {".jsonl"});
  const std::string equal = "{\"prompt\": \"2\", \"chosen\": \"3\", \"rejected\": \"3\"}\n";
  s.data_refused(equal, {".jsonl:1", "identical"});
  s.refused({"dpo", s / "m", "--data", s.rows(equal), "--out", s / "run"}, 4, {".jsonl:1: \"chosen\" and \"rejected\" are identical"});
  const std::string half = "{\"prompt\": \"2\", \"chosen\": \"3\"";
  s.data_refused(half + "}\n", {".jsonl:1: \"rejected\" is missing; found chosen, prompt"});
  s.data_refused(half + ", \"rejected\": \"\"}\n", {".jsonl:1: \"rejected\" is empty, spaces aside"});
  s.data_refused("{\"chosen\": \"2\", \"rejected\": \"3\"}\n", {".jsonl:1: \"prompt\" is missing"});
  s.data_refused(half + ", \"rejected\": \"<bos>2\"}\n", {".jsonl:1: the text holds <bos>", "take it out", "--safe"});
  s.data_refused(good + "{\"prompt\": \"<bos>2\", \"completion\": \"2\"}\n", {".jsonl:2: the text holds <bos>"});
  const Words base = {"sft", s / "m", "--out", s / "run", "--steps", "1", "--data"};
  const auto with = [&](const std::string& d) {
    Words w = base;
    w.push_back(d);
    return w;
  };
  s.refused(with(s / "none.jsonl"), 4, {"none.jsonl", "No such file"});
  fs::create_directories(s / "empty");
  s.refused(with(s / "empty"), 4, {"empty", "train.jsonl"});
  s.data_refused(good + "{\"prompt\": \"" + std::string(16 << 20, '2') + "\", \"completion\": \"2\"}\n", {".jsonl:2: line is longer than 16,777,216 bytes"});
}

TEST_CASE("bad input: questions and rewards") {
  const Setting s;
  const std::string rows = s.rows("{\"prompt\": \"2·3=\", \"answer\": \"2\"}\n{\"prompt\": \"2·2=\"}\n");
  const auto judged = [&](Words more) {
    Words w = {"eval", s / "m", "--task", "verifier", "--greedy", "-n", "2", "--data", rows};
    w.insert(w.end(), more.begin(), more.end());
    return w;
  };
  s.refused(judged({}), 4, {".jsonl:2: verifier exact needs the expected answer", "--answer-key"});
  s.refused(judged({"--verifier", "radicals"}), 4, {".jsonl:1: verifier radicals: the prompt \"2·3=\" is no radical"});
  s.refused(judged({"--verifier", "length:1..9", "--answer-key", "gold"}), 4, {".jsonl:1: \"gold\" is missing; found answer, prompt"});
  s.refused(judged({"--verifier", "exac"}), 2, {"verifier \"exac\" is unknown, did you mean exact?", "regex:PATTERN"});
  s.refused(judged({"--verifier", "regex:(a"}), 2, {"pattern \"(a\": character 3: a ) is missing"});
  s.refused(judged({"--verifier", "length:9..1"}), 2, {"expected length:N..M"});
  s.refused(judged({"--verifier", "length:1..", "--reward-weights", "1,2"}), 2, {"--reward-weights: 2 for 1 verifiers"});
  s.refused(judged({"--verifier", "length:1..", "--reward-weights", "x"}), 2, {"--reward-weights: \"x\" is not a number"});
  s.refused(judged({"--verifier", "length:1..", "--reward-weights", "inf"}), 2, {"the weight of reward \"length:1..\" is inf"});
  const std::string all = "2 of 2 answers have no reward";
  s.refused(judged({"--verifier", "exec:cat >&2; echo no luck >&2; exit 3"}), 4, {"raised at sample 1: exit status 3; it said: no luck", all});
  s.refused(judged({"--verifier", "exec:cat >/dev/null; echo 1"}), 4, {"raised at sample 1: 1 line for 2 samples", all});
  s.refused(judged({"--verifier", "exec:cat >/dev/null; echo nan; echo x"}), 4, {"\"nan\" is no finite number", all});
  s.refused(judged({"--verifier", "exec:sleep 60", "--reward-timeout", "0.1"}), 4, {"no answer within 0.3 s, killed", all});
  s.refused(judged({"--verifier", "exec:yes"}), 4, {"it wrote more than 65,664 bytes", all});
  // One row that fails is left out, and said.
  CHECK(run_process(judged({"--verifier", "exec:cat >/dev/null; echo 1; echo nan"}), s / "log") == 0);
  const std::string said = content_of(s / "log");
  CHECK(said.find("raised at sample 2: \"nan\" is no finite number; 1 of 2 answers have no reward; they are left out") != std::string::npos);
  CHECK(said.find("pass@1 1.000") != std::string::npos);
}

TEST_CASE("bad input: options, prompts and places") {
  const Setting s;
  const Words base = {"sft", s / "m", "--data", s / "data", "--out", s / "run"};
  const auto with = [&](Words more) {
    Words w = base;
    w.insert(w.end(), more.begin(), more.end());
    return w;
  };
  s.refused(with({"--lr", "1e-3x"}), 2, {"--lr: \"1e-3x\" is not a number"});
  s.refused(with({"--lr", "nan"}), 2, {"--lr"});
  s.refused(with({"--lr", "-1"}), 2, {"--lr", "0"});
  s.refused(with({"--wramup", "3"}), 2, {"--wramup unknown, did you mean --warmup?"});
  s.refused(with({"--lorra-rank", "3"}), 2, {"--lorra-rank unknown, did you mean --lora-rank?"});
  s.refused(with({"--steps", "3", "--epochs", "1"}), 2, {"--steps and --epochs: choose one"});
  s.refused(with({"--steps", "0"}), 2, {"--steps", "0"});
  s.refused(with({"--steps", "-5"}), 2, {"--steps"});
  s.refused(with({"--epochs", "-1"}), 2, {"--epochs"});
  s.refused(with({"--batch", "0"}), 2, {"--batch"});
  s.refused(with({"--batch", "2", "--accum", "3"}), 2, {"2", "3"});
  s.refused(with({"--schedule", "cosin"}), 2, {"did you mean cosine?"});
  s.refused(with({"--max-len", "41"}), 2, {"--max-len 41", "40 positions"});
  s.refused(with({"--freeze", "nothing.*"}), 2, {"--freeze nothing.*", "facet inspect model"});
  s.refused(with({"--train", "layers.-9.*"}), 2, {"--train layers.-9.*", "facet inspect model"});
  s.refused(with({"--train", "norm", "--adapter", "lora"}), 2, {"--train and --adapter"});
  s.refused(with({"--optimizer", "lyon"}), 2, {"did you mean lion?"});
  s.refused(with({"--optimizer", "adafactor", "--beta2", "0.9"}), 2, {"--beta2 has no effect with --optimizer adafactor"});
  s.refused(with({"--momentum", "0.9"}), 2, {"--momentum has no effect with --optimizer adamw"});
  s.refused(with({"--decay", "0.5"}), 2, {"--decay has no effect with --schedule cosine"});
  s.refused(with({"--schedule", "exponential"}), 2, {"never to 0", "--min-lr-ratio"});
  s.refused(with({"--optimizer", "sgd", "--wd", "0.1"}), 2, {"weight decay", "AdamW"});
  s.refused(with({"--sample", std::string(60, '2')}), 2, {"--sample", "61 tokens", "40"});
  s.refused(with({"--beta1", "1"}), 2, {"beta1"});
  s.refused({"sft", s / "m", "--data", s / "data"}, 2, {"--out"});
  s.refused({"sft", s / "m", "--data", s / "data", "--out", s / "log/run", "--steps", "1"}, 5, {"log", "Not a directory"});
  s.refused({"sft", s / "m", "--data", s / "data", "--out", "/proc/run", "--steps", "1"}, 5, {"/proc/run"});
  s.refused({"init", s / "log/m", "--tokenizer", "char:abc"}, 5, {"log", "Not a directory"});
  s.refused({"generate", s / "m", "-p", std::string(60, '2')}, 2, {"61 tokens", "the context is 40", "shorten"});
  s.refused({"generate", s / "m"}, 2, {"--prompt and --prompts"});
  s.refused({"generate", s / "m", "-p", "2", "--raw", "--chat"}, 2, {"--raw and --chat: choose one"});
  s.refused({"generate", s / "m", "-p", "2", "--temp", "-1"}, 2, {"--temp"});
  s.refused({"generate", s / "m", "-p", "2", "--set", "model.sliding_windw=3"}, 2, {"sliding_windw", "sliding_window"});
  s.refused({"eval", s / "m", "--data", s / "gone"}, 4, {"gone"});
  s.refused({"inspect", "run", s / "m"}, 3, {"metrics"});
}

TEST_CASE("bad input: runs that go on as something else") {
  const Setting s;
  const auto run = [&](const std::string& model, Words more) {
    Words w = {"sft", model, "--data", s / "data", "--out", s / "run", "--save-every", "1"};
    w.insert(w.end(), more.begin(), more.end());
    return w;
  };
  const Words three = {"--steps", "3", "--batch", "4"}, again = {"--steps", "3", "--batch", "4", "--resume"};
  REQUIRE(run_process({"init", s / "other", "--data", s / "data", "--set", "model.num_hidden_layers=2", "--set", "model.hidden_size=32"}, s / "log") == 0);
  s.refused(run(s / "m", again), 2, {"run: no run to resume in this folder", "check --out"});
  REQUIRE(run_process(run(s / "m", three), s / "log") == 0);
  s.refused(run(s / "m", three), 2, {"already holds a run", "--resume continues it", "another --out"});
  s.refused(run(s / "other", again), 2, {"resume: model was Gemma 3 (2 layers, width 16", "Gemma 3 (2 layers, width 32", " now (", "step-3); --allow-changed model"});
  s.refused(run(s / "m", {"--steps", "3", "--resume", "--batch", "8"}), 2,
            {"resume: batch was 4, 8 now", "--allow-changed batch accepts it (no longer bitwise)"});
  for (const char* step : {"step-2", "step-3"}) {
    const std::string file = s / ("run/checkpoints/" + std::string(step) + "/model.safetensors");
    std::string bytes = content_of(file);
    bytes.back() ^= 1;
    Setting::put(file, bytes);
  }
  s.refused(run(s / "m", again), 3, {"no checkpoint verifies", "step-2: CRC of \"", "step-3: CRC of \"", "differs"});
}

TEST_CASE("bad input: more than the machine has") {
  const Setting s;
  // A feed-forward block so wide that no machine has room for its activations.
  REQUIRE(run_process({"init", s / "wide", "--data", s / "data", "--set", "model.num_hidden_layers=2", "--set", "model.hidden_size=16",
                       "--set", "model.intermediate_size=8192"}, s / "log") == 0);
  s.refused({"sft", s / "wide", "--data", s / "data", "--out", s / "run", "--steps", "1", "--batch", "131072"}, 12,
            {"needs 1.", " TB (weights 3.", " MB, gradients ", "optimizer ", "activations about 1.", " free; try --adapter lora", "--accum"});
}
