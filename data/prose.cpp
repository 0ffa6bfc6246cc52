#include "data/prose.h"

#include <cctype>
#include <string_view>

#include "data/draws.h"
#include "tensor/error.h"

namespace facet {

namespace {

constexpr const char* women[] = {"Anna", "Clara", "Edith", "Grace", "Ida", "Martha", "Nora", "Rosa"};
constexpr const char* men[] = {"Albert", "Bruno", "Daniel", "Felix", "Henry", "Jacob", "Oscar", "Theo"};
constexpr const char* trades[] = {"baker", "captain", "carpenter", "clerk", "doctor", "farmer", "ferryman", "gardener", "judge", "miller",
                                  "painter", "sailor", "schoolmaster", "shepherd", "smith", "tailor", "traveller", "watchmaker"};
constexpr const char* animals[] = {"cat", "crow", "dog", "donkey", "fox", "goat", "hen", "horse", "mouse", "owl"};
constexpr const char* things[] = {"apple", "basket", "bell", "book", "barrel", "candle", "chair", "clock", "coat", "coin", "cup", "drum",
                                  "hammer", "hat", "key", "ladder", "lamp", "letter", "map", "mirror", "needle", "picture", "ring", "rope",
                                  "shoe", "spoon", "stone", "table", "wheel", "window"};
constexpr const char* places[] = {"barn", "bridge", "church", "field", "forest", "garden", "harbour", "hill", "house", "inn", "kitchen", "lake",
                                  "market", "mill", "mountain", "river", "road", "school", "shore", "station", "tower", "valley", "village", "well"};
constexpr const char* adjectives[] = {"old", "young", "small", "large", "quiet", "bright", "broken", "careful", "clever", "cold", "dark", "empty",
                                      "friendly", "golden", "green", "grey", "heavy", "gentle", "hungry", "lonely", "narrow", "patient", "poor",
                                      "proud", "red", "round", "silent", "strange", "tired", "tall", "warm", "white", "wooden", "yellow"};
constexpr const char* taken[] = {"carried", "found", "lost", "sold", "bought", "painted", "repaired", "hid", "dropped", "opened", "kept", "forgot",
                                 "remembered", "admired", "washed", "measured", "borrowed", "counted", "broke", "polished"};
constexpr const char* met[] = {"met", "saw", "followed", "helped", "thanked", "called", "trusted", "asked about", "waited for", "smiled at",
                               "wrote to", "listened to", "laughed with", "walked with"};
constexpr const char* moved[] = {"walked", "ran", "hurried", "wandered", "climbed", "came back", "rode", "crept", "went", "set out"};
constexpr const char* toward[] = {"to", "towards", "past", "as far as", "from"};
constexpr const char* rested[] = {"slept", "sat", "stood", "waited", "worked", "sang", "rested", "lived", "dreamed", "whistled"};
constexpr const char* near[] = {"near", "behind", "in front of", "beside", "not far from", "at the edge of"};
constexpr const char* manners[] = {"slowly", "quietly", "at once", "with great care", "without a word", "gladly", "in silence", "as always",
                                   "for the first time", "with a sigh", "once more", "in a hurry"};
constexpr const char* times[] = {"In the morning", "In the evening", "At noon", "One day", "The next day", "After the rain", "Before sunrise",
                                 "Late at night", "In the spring", "That winter", "A week later", "On the second day", "Many years ago",
                                 "When the bell rang", "As soon as the snow melted", "Towards the end of summer"};
constexpr const char* weather[] = {"The wind blew from the north", "It rained for three days", "The sun stood high", "Snow lay on the roofs",
                                   "A thin fog hung over the water", "The stars were very clear", "The air smelled of hay", "Thunder rolled behind the hills"};
constexpr const char* feelings[] = {"was afraid", "was glad", "was not sure", "felt ashamed", "was very tired", "felt at home", "could not sleep",
                                    "had nothing to say", "was in good spirits", "knew better", "did not mind", "was curious"};
constexpr const char* sayings[] = {"I have never seen anything like it", "There is still time", "You should have told me", "Nobody will believe us",
                                   "It is not as heavy as it looks", "We must begin again", "That was my father's", "I would rather stay here",
                                   "The road is longer than you think", "Perhaps it will be enough", "This cannot be right", "I know the way"};
constexpr const char* questions[] = {"Where have you been?", "Who left this here?", "How much does it cost?", "Is it far from here?", "What do you see?",
                                     "Why did you come back?", "Do you remember the old days?", "Can you keep a secret?", "Shall we go on?", "What happened then?"};
constexpr const char* said[] = {"said", "answered", "whispered", "cried", "repeated", "explained", "promised", "muttered"};
constexpr const char* numbers[] = {"two", "three", "four", "five", "six", "seven", "nine", "twelve", "twenty", "a hundred"};

// Tells one story after the other. Each has a hero and a friend, so that pronouns and names refer to somebody.
class Writer {
 public:
  explicit Writer(uint64_t seed) : draws_(fold_in(key(seed), 0x9405eu)) {}

  std::string paragraph() {
    if (left_ == 0) new_story();
    --left_;
    std::string s;
    for (uint32_t n = 3 + draws_.below(5); n > 0; --n) s += (s.empty() ? "" : " ") + sentence();
    return s + (left_ == 0 ? "\n\n\n" : "\n\n");
  }

 private:
  struct Person {
    std::string name, trade, he, his;
  };

  Person person() {
    const bool woman = draws_.chance(0.5);
    return {woman ? draws_.pick(women) : draws_.pick(men), draws_.pick(trades), woman ? "she" : "he", woman ? "her" : "his"};
  }
  void new_story() {
    hero_ = person();
    do friend_ = person();
    while (friend_.name == hero_.name || friend_.trade == hero_.trade);
    thing_ = draws_.pick(things);
    left_ = 3 + draws_.below(6);
    introduced_ = false;
  }

  static bool vowel(std::string_view s) { return std::string_view("aeiou").find(s[0]) != std::string_view::npos; }
  static std::string a(const std::string& words) { return (vowel(words) ? "an " : "a ") + words; }
  static std::string capital(std::string s) {
    s[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(s[0])));
    return s;
  }
  std::string adjective(double share, const std::string& noun) { return draws_.chance(share) ? std::string(draws_.pick(adjectives)) + " " + noun : noun; }

  std::string who() {
    const uint32_t k = draws_.below(10);
    if (k < 4) return hero_.he;
    if (k < 6) return hero_.name;
    if (k < 8) return friend_.name;
    return k == 8 ? "the " + adjective(0.5, friend_.trade) : "the " + adjective(0.6, draws_.pick(animals));
  }
  std::string object() {
    switch (draws_.below(6)) {
      case 0: return hero_.his + " " + adjective(0.3, draws_.pick(things));
      case 1: return std::string(draws_.pick(numbers)) + " " + draws_.pick(adjectives) + " " + draws_.pick(things) + "s";
      case 2: return "the " + thing_;
      case 3: return "the " + adjective(0.4, draws_.pick(things)) + " of the " + draws_.pick(trades);
      default: return a(adjective(0.5, draws_.pick(things)));
    }
  }
  std::string place() { return "the " + adjective(0.4, draws_.pick(places)); }

  std::string action() {
    switch (draws_.below(5)) {
      case 0: return fmt::format("{} {} {}", draws_.pick(moved), draws_.pick(toward), place());
      case 1: return fmt::format("{} {} {}", draws_.pick(rested), draws_.pick(near), place());
      case 2: return fmt::format("{} {}", draws_.pick(met), draws_.chance(0.5) ? "the " + adjective(0.4, draws_.pick(trades)) : a(adjective(0.5, draws_.pick(animals))));
      default: return fmt::format("{} {}{}", draws_.pick(taken), object(), draws_.chance(0.3) ? fmt::format(" {} {}", draws_.pick(near), place()) : "");
    }
  }
  std::string clause() { return who() + " " + action() + (draws_.chance(0.25) ? std::string(" ") + draws_.pick(manners) : ""); }

  std::string sentence() {
    if (!introduced_) {
      introduced_ = true;
      return fmt::format("{} there lived {} named {}, who {} {} {}.", draws_.chance(0.5) ? "Many years ago" : "Once", a(adjective(0.6, hero_.trade)), hero_.name,
                         draws_.pick(rested), draws_.pick(near), place());
    }
    switch (draws_.below(12)) {
      case 0: return fmt::format("{}, and {}.", draws_.pick(weather), clause());
      case 1: return fmt::format("{}, {}, but {} {}.", draws_.pick(times), clause(), hero_.he, draws_.pick(feelings));
      case 2: return fmt::format("\"{},\" {} {}.", draws_.pick(sayings), draws_.pick(said), draws_.chance(0.5) ? hero_.name : friend_.name);
      case 3: return fmt::format("\"{}\" asked {}. \"{}.\"", draws_.pick(questions), draws_.chance(0.5) ? friend_.name : "the " + std::string(draws_.pick(trades)), draws_.pick(sayings));
      case 4: return fmt::format("{}, because {} {}.", capital(clause()), hero_.he, draws_.pick(feelings));
      case 5: return fmt::format("{}, {}.", draws_.pick(times), clause());
      case 6: return fmt::format("While {}, {}.", clause(), clause());
      case 7: return fmt::format("{} who {} {}.", capital("the " + adjective(0.4, draws_.pick(trades))), action(), draws_.pick(feelings));
      case 8: return fmt::format("{} and {} {}; {}.", hero_.name, friend_.name, action(), clause());
      case 9: return fmt::format("There was {} {} {}.", a(adjective(0.8, draws_.pick(things))), draws_.pick(near), place());
      default: return capital(clause()) + (draws_.chance(0.4) ? ", and then " + hero_.he + " " + action() : "") + ".";
    }
  }

  Draws draws_;
  Person hero_, friend_;
  std::string thing_;
  uint32_t left_ = 0;
  bool introduced_ = false;
};

}  // namespace

std::string make_prose(int64_t bytes, uint64_t seed) {
  if (bytes < 0 || bytes > int64_t{1} << 30) fail(Kind::usage, "prose: {} bytes; expected 0 to 1 GiB", bytes);
  Writer writer(seed);
  std::string s;
  while (static_cast<int64_t>(s.size()) < bytes) s += writer.paragraph();
  while (s.ends_with("\n\n")) s.pop_back();
  return s;
}

}  // namespace facet
