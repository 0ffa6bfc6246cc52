#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "tests/app/run.h"

namespace {
const char* const rows = R"({"prompt":"2+2=","completion":"4"}
{"prompt":"2+3=","completion":"5"}
{"prompt":"2+2=","completion":"4"}
)";
}

TEST_CASE("data preview: marks what is learned") {
  TempFile file("train.jsonl", rows);
  const Result r = run_facet("data preview -q --mask -n 1 " + file.path);
  CHECK(r.code == 0);
  CHECK(r.err.empty());
  CHECK(r.out.find("<bos>2+2=[[4<eos>]]") != std::string::npos);
  CHECK(run_facet("data preview -q --mask none -n1 --first 2 " + file.path).out.find("<bos>[[2+3=5<eos>]]") != std::string::npos);
  CHECK(run_facet("data preview --first 9 " + file.path).code == 2);
  const Result bpe = run_facet("data preview -q -n1 --model " FACET_GOLDENS "/tokenizer " + file.path);
  CHECK(bpe.out.find("[[4<eos>]]") != std::string::npos);
}

TEST_CASE("data stats: counts tokens of every part") {
  TempFile file("train.jsonl", rows);
  const auto j = nlohmann::json::parse(run_facet("data stats --json " + file.folder).out);
  CHECK(j.at("train").at("examples") == 3);
  CHECK(j.at("train").at("tokens") == 3 * 7);
  CHECK(j.at("train").at("learned") == 3 * 2);
  const auto split = nlohmann::json::parse(run_facet("data stats --json --val-frac 0.34 " + file.path).out);
  CHECK(split.at("valid").at("examples") == 1);
}

TEST_CASE("data preview --mask: of a conversation the answers and the tag that ends them, nothing else") {
  const TempFile chat("chat.jsonl", R"({"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi"},{"role":"assistant","content":" Hello! "},{"role":"user","content":"Bye"},{"role":"assistant","content":"é"}]}
)");
  const Result r = run_facet("data preview -q --mask --model " FACET_GOLDENS "/tokenizer " + chat.path);
  CHECK(r.out.substr(r.out.find('\n') + 1) ==
        "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n[[Hello!<end_of_turn>]]\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n[[é<end_of_turn>]]\n\n\n");
  const TempFile neighbours("chat.jsonl", R"({"messages":[{"role":"user","content":"a"},{"role":"user","content":"b"},{"role":"model","content":"c"}]}
)");
  const Result refused = run_facet("data preview --model " FACET_GOLDENS "/tokenizer " + neighbours.path);
  CHECK(refused.code == 4);
  CHECK(refused.err.find("chat.jsonl:1: turn 2 is \"user\" after \"user\"; turns must alternate (--merge-roles joins neighbours)") != std::string::npos);
  CHECK(run_facet("data preview -q --merge-roles --model " FACET_GOLDENS "/tokenizer " + neighbours.path).out.find("user\na\n\nb<end_of_turn>\n<start_of_turn>model\n[[c<end_of_turn>]]") !=
        std::string::npos);
}

TEST_CASE("data stats: what truncation and padding waste; nothing is cut unasked") {
  std::string lines;
  for (int i = 0; i < 60; ++i) lines += "{\"text\":\"" + std::string(static_cast<size_t>(1 + i * 7 % 40), 'a') + "\"}\n";
  const TempFile file("train.jsonl", lines);
  const auto stats = [&](const std::string& flags) { return nlohmann::json::parse(run_facet("data stats --json " + flags + " " + file.path).out).at("train"); };
  const auto all = stats("--batch 4");
  CHECK(all.at("longest_row") == 41);  // and eos
  CHECK(all.at("truncated_percent") == 0);
  const auto& waste = all.at("padding_percent");
  CHECK(waste.at("batch") == 4);
  CHECK(waste.at("plain") > 25);
  CHECK(waste.at("bucket") < 10);
  CHECK(waste.at("pack") < 30);
  const auto dropped = stats("--max-len 21"), cut = stats("--max-len 21 --truncate");
  CHECK(dropped.at("left_out_percent").get<double>() == Approx(50).margin(5));
  CHECK(dropped.at("truncated_percent") == 0);
  CHECK(dropped.at("longest_row") == 41);
  CHECK(cut.at("left_out_percent") == 0);
  CHECK(cut.at("truncated_percent") == dropped.at("left_out_percent"));
  CHECK(cut.at("longest") == 21);
  CHECK(stats("--max-len 21 --too-long truncate") == cut);
  CHECK(run_facet("data stats --truncate --too-long drop " + file.path).code == 2);
  const Result text = run_facet("data stats --max-len 21 --truncate " + file.path);
  CHECK(text.out.find("train  longest row 41 positions (--max-len 21); 0.00% of the rows too long and left out, ") != std::string::npos);
  CHECK(text.out.find("train  padding wastes ") != std::string::npos);
}

TEST_CASE("data tokenise: runs take the tokens beside a file, as long as they are its own") {
  const TempFile file("train.jsonl", rows);
  const std::string model = " --model " FACET_GOLDENS "/gemma3-tiny ";
  const std::string before = run_facet("data stats --json" + model + file.folder).out;
  const Result made = run_facet("data tokenise" + model + file.folder);
  CHECK(made.code == 0);
  CHECK(made.out.find("train.jsonl.tokens.bin: ") != std::string::npos);
  CHECK(run_facet("data tokenize" + model + file.path).out.find("is up to date") != std::string::npos);
  const Result used = run_facet("data stats" + model + file.folder);
  CHECK(used.out.find("tokens as prepared") != std::string::npos);
  CHECK(run_facet("data stats --json" + model + file.folder).out == before);
  const Result other = run_facet("data stats --max-len 9" + model + file.folder);
  CHECK(other.out.find("this is \"max-len 9\", so it is not used; facet data tokenise makes it anew") != std::string::npos);
  std::ofstream(file.path, std::ios::app) << R"({"prompt":"1+1=","completion":"2"})" << "\n";
  const Result changed = run_facet("data stats" + model + file.folder);
  CHECK(changed.out.find("made for \"source ") != std::string::npos);
  CHECK(nlohmann::json::parse(run_facet("data stats --json" + model + file.folder).out).at("train").at("examples") == 4);
  CHECK(run_facet("data tokenise" + model + file.folder).out.find("4 of 4 rows used") != std::string::npos);
  CHECK(run_facet("data stats" + model + file.folder).out.find("tokens as prepared") != std::string::npos);
}

TEST_CASE("data: pairs and prompts are shown as what they are") {
  const std::string samples = FACET_GOLDENS "/../../data/samples/";
  const Result pairs = run_facet("data preview -q -n 1 --first 3 " + samples + "preferences.jsonl");
  CHECK(pairs.code == 0);
  const size_t chosen = pairs.out.find("example 3, chosen ("), rejected = pairs.out.find("example 3, rejected (");
  REQUIRE(chosen != std::string::npos);
  REQUIRE(rejected != std::string::npos);
  CHECK(pairs.out.find("preferences.jsonl:3)") != std::string::npos);
  CHECK(pairs.out.find("; ids 2 4 ") != std::string::npos);  // bos once, then <start_of_turn>
  CHECK(pairs.out.find("<start_of_turn>model\n[[Cut thin slices") > chosen);
  CHECK(pairs.out.find("<start_of_turn>model\n[[That depends") > rejected);
  CHECK(run_facet("data preview --first 41 " + samples + "preferences.jsonl").code == 2);
  const auto j = nlohmann::json::parse(run_facet("data stats --json " + samples + "preferences.jsonl").out).at("train");
  CHECK(j.at("examples") == 40);
  CHECK(j.at("learned_of_rejected") > 1000);
  CHECK(run_facet("data check " + samples + "preferences.jsonl").out.find("(preference), 40 of 40 rows used\nall good") != std::string::npos);
  TempFile renamed("p.jsonl", R"({"q":"a","good":"b","bad":"c"})");
  CHECK(run_facet("data preview -q --prompt-key q --chosen-key good --rejected-key bad " + renamed.path).out.find("<bos>a[[c<eos>]]") != std::string::npos);

  const std::string problems = "--prompt-key question " + samples + "word_problems.jsonl";
  const Result prompt = run_facet("data preview -q -n 1 " + problems);
  CHECK(prompt.out.find("[[") == std::string::npos);
  CHECK(prompt.out.find("expected: Finn has 12 + 2 = 14 pens.") != std::string::npos);
  CHECK(run_facet("data check --verifier numeric " + problems).code == 0);
  const Result wrong = run_facet("data check --verifier radicals " + problems);
  CHECK(wrong.code == 4);
  CHECK(wrong.err.find("word_problems.jsonl:1: verifier radicals: the prompt \"Finn has") != std::string::npos);
  const Result none = run_facet("data check --verifier numeric --answer-key gold " + problems);
  CHECK(none.code == 4);
  CHECK(none.err.find("word_problems.jsonl:1: \"gold\" is missing; found answer, question") != std::string::npos);
}

TEST_CASE("data check: names broken, repeated and leaked rows; exit code 4") {
  TempFile file("train.jsonl", rows);
  const Result good = run_facet("data check " + file.folder + " --valid " + file.path);
  CHECK(good.code == 0);
  CHECK(good.out.find("train: 1 examples occur more than once") != std::string::npos);
  CHECK(good.out.find("valid: 2 examples are in the training part, too") != std::string::npos);
  TempFile chat("chat.jsonl", R"({"messages":[{"role":"user","content":"a"},{"role":"model","content":"b"}]}
{"messages":[{"role":"user","content":"a"},{"role":"user","content":"b"}]}
{"messages":"x"}
)");
  const Result bad = run_facet("data check " + chat.path);
  CHECK(bad.code == 4);
  CHECK(bad.err == "facet: " + chat.path + ": 2 broken rows\n");
  CHECK(bad.out.find(chat.path + ":2: turn 2 is \"user\" after \"user\"") != std::string::npos);
  CHECK(bad.out.find(chat.path + ":3: \"messages\" must be a non-empty list; found string") != std::string::npos);
  const Result broken = run_facet("data stats " + chat.path);
  CHECK(broken.code == 4);
  CHECK(broken.err.find("--max-bad-rows") != std::string::npos);
  CHECK(run_facet("data stats --max-bad-rows 2 " + chat.path).code == 0);
  CHECK(run_facet("data check /nowhere").code == 4);
  const Result shorter = run_facet("data stats --max-len 2 " + file.path);
  CHECK(shorter.code == 4);
  CHECK(shorter.err.find("0 of 3 rows fit max length 2 (shortest 6); raise --max-len") != std::string::npos);
}
