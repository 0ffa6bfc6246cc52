#include "tensor/io/pickle.h"

#include <algorithm>
#include <bit>

#include "tensor/io/cursor.h"
#include "tensor/io/text.h"

namespace facet {

namespace {
constexpr size_t max_values = 120'000, max_stack = 100'000, max_marks = 10'000, max_items = 1'000'000;
constexpr uint64_t max_text = uint64_t{16} << 20, max_global = 200;
constexpr std::string_view ordered_dict = "collections.OrderedDict";
}  // namespace

class PickleMachine {
 public:
  using Type = PickleValue::Type;
  PickleMachine(Pickle& p, std::span<const uint8_t> bytes, const std::string& where, std::span<const std::string_view> globals)
      : values_(p.values_), bytes_(bytes), cursor_(bytes, where), globals_(globals) {}

  uint32_t run() {
    if (cursor_.get<uint8_t>("PROTO") != 0x80 || cursor_.get<uint8_t>("protocol") != 2) error("expected a pickle of protocol 2");
    while (true) {
      op_at_ = cursor_.offset();
      const auto op = cursor_.get<uint8_t>("an instruction");
      if (op == '.') break;
      step(op);
      if (stack_.size() > max_stack) error(fmt::format("more than {} values on the stack", grouped(max_stack)));
    }
    if (!marks_.empty() || stack_.size() != 1) error("STOP with something else than one value");
    if (cursor_.remaining() != 0) error(fmt::format("{} bytes behind the pickle", grouped(cursor_.remaining())));
    return stack_.front();
  }

 private:
  // Instructions, by their letters in pickletools.
  void step(uint8_t op) {
    switch (op) {
      case '(': mark(); break;                                                            // MARK
      case 'N': push({}); break;                                                          // NONE
      case 0x88: case 0x89: push_integer(op == 0x88, Type::boolean); break;               // NEWTRUE, NEWFALSE
      case 'K': push_integer(cursor_.get<uint8_t>("BININT1")); break;
      case 'M': push_integer(cursor_.get<uint16_t>("BININT2")); break;
      case 'J': push_integer(cursor_.get<int32_t>("BININT")); break;
      case 0x8a: push_integer(long1()); break;                                            // LONG1
      case 'G': push_real(); break;                                                       // BINFLOAT
      case 'X': push_text(cursor_.get<uint32_t>("BINUNICODE")); break;
      case 'U': push_text(cursor_.get<uint8_t>("SHORT_BINSTRING")); break;
      case 'c': push_global(); break;                                                     // GLOBAL
      case '}': push_empty(Type::dict); break;                                            // EMPTY_DICT
      case ']': case 0x8f: push_empty(Type::list); break;                                 // EMPTY_LIST, EMPTY_SET
      case ')': push_empty(Type::tuple); break;                                           // EMPTY_TUPLE
      case 't': push_tuple(since_mark()); break;                                          // TUPLE
      case 0x85: case 0x86: case 0x87: push_tuple(last(op - 0x84u)); break;               // TUPLE1, 2, 3
      case 'a': append(last(1)); break;                                                   // APPEND
      case 'e': append(since_mark()); break;                                              // APPENDS
      case 's': set_items(last(2)); break;                                                // SETITEM
      case 'u': set_items(since_mark()); break;                                           // SETITEMS
      case 'R': case 0x81: call(); break;                                                 // REDUCE, NEWOBJ
      case 'b': build(); break;                                                           // BUILD
      case 'Q': push({.type = Type::persistent, .items = last(1)}); break;                // BINPERSID
      case 'q': memorise(cursor_.get<uint8_t>("BINPUT")); break;
      case 'r': memorise(cursor_.get<uint32_t>("LONG_BINPUT")); break;
      case 'h': recall(cursor_.get<uint8_t>("BINGET")); break;
      case 'j': recall(cursor_.get<uint32_t>("LONG_BINGET")); break;
      default:
        error(fmt::format("instruction {:#04x} is not among those of a state dict; refused. Convert to safetensors with a tool you trust", op));
    }
  }

  [[noreturn]] void error(const std::string& what) const { fail(Kind::file, "{}: pickle byte {}: {}", cursor_.where(), op_at_, what); }

  void mark() {
    if (marks_.size() == max_marks) error(fmt::format("more than {} marks", grouped(max_marks)));
    marks_.push_back(stack_.size());
  }
  void push(PickleValue v) {
    if (values_.size() == max_values) error(fmt::format("more than {} values", grouped(max_values)));
    values_.push_back(std::move(v));
    stack_.push_back(static_cast<uint32_t>(values_.size() - 1));
  }
  void push_integer(int64_t v, Type type = Type::integer) { push({.type = type, .integer = v}); }
  void push_empty(Type type) { push({.type = type}); }
  void push_tuple(std::vector<uint32_t> items) { push({.type = Type::tuple, .items = std::move(items)}); }
  void push_real() {
    const auto big_endian = cursor_.get<uint64_t>("BINFLOAT");
    push({.type = Type::real, .real = std::bit_cast<double>(__builtin_bswap64(big_endian))});
  }
  std::string_view text(uint64_t n) {
    if (n > max_text) error(fmt::format("a text of {} bytes", grouped(n)));
    const auto t = cursor_.take(n, "text");
    return {reinterpret_cast<const char*>(t.data()), t.size()};
  }
  void push_text(uint64_t n) {
    const std::string_view t = text(n);
    if (invalid_utf8(t) != t.npos) error("a text that is no UTF-8");
    push({.type = Type::text, .text = t});
  }
  int64_t long1() {
    const auto n = cursor_.get<uint8_t>("LONG1");
    if (n > 8) error(fmt::format("an integer of {} bytes", n));
    uint64_t v = 0;
    const auto digits = cursor_.take(n, "LONG1");
    for (size_t i = 0; i < digits.size(); ++i) v |= uint64_t{digits[i]} << 8 * i;
    if (n > 0 && n < 8 && digits.back() & 0x80) v |= ~uint64_t{0} << 8 * n;  // two's complement
    return static_cast<int64_t>(v);
  }
  std::string_view line() {
    const size_t at = static_cast<size_t>(cursor_.offset());
    const auto rest = bytes_.subspan(at);
    const auto end = std::find(rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(std::min<size_t>(rest.size(), max_global)), '\n');
    const auto n = static_cast<uint64_t>(end - rest.begin());
    if (n == rest.size() || *end != '\n') error("a name without end");
    const std::string_view r = text(n);
    cursor_.skip(1, "end of line");
    return r;
  }
  void push_global() {
    std::string name(line());
    name += '.';
    name += line();
    const auto known = std::find(globals_.begin(), globals_.end(), name);
    if (known == globals_.end() && name != ordered_dict)
      fail(Kind::file,
           "{}: pickle refers to \"{}\" - not a tensor file, refused; nothing was executed. Convert to safetensors with a tool you trust",
           cursor_.where(), printable(name, 80));
    push({.type = Type::global, .text = known == globals_.end() ? ordered_dict : *known});
  }

  std::vector<uint32_t> last(size_t n) {
    const size_t floor = marks_.empty() ? 0 : marks_.back();
    if (stack_.size() < floor + n) error("the stack is empty");
    std::vector<uint32_t> r(stack_.end() - static_cast<std::ptrdiff_t>(n), stack_.end());
    stack_.resize(stack_.size() - n);
    return r;
  }
  std::vector<uint32_t> since_mark() {
    if (marks_.empty()) error("no MARK");
    std::vector<uint32_t> r(stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back()), stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return r;
  }
  PickleValue& top(Type type, const char* what) {
    if (stack_.empty() || (!marks_.empty() && stack_.size() == marks_.back())) error("the stack is empty");
    PickleValue& v = values_[stack_.back()];
    if (v.type != type) error(fmt::format("expected {}", what));
    return v;
  }
  void extend(PickleValue& v, const std::vector<uint32_t>& items) {
    if ((items_ += items.size()) > max_items) error(fmt::format("more than {} items in lists and dicts", grouped(max_items)));
    v.items.insert(v.items.end(), items.begin(), items.end());
  }
  void append(const std::vector<uint32_t>& items) {
    extend(top(Type::list, "a list to append to"), items);
  }
  void set_items(const std::vector<uint32_t>& items) {
    PickleValue& v = top(Type::dict, "a dict to set items of");
    if (items.size() % 2) error("a key without a value");
    extend(v, items);
  }
  void call() {
    std::vector<uint32_t> items = last(2);
    const PickleValue &f = values_[items[0]], &arguments = values_[items[1]];
    if (f.type != Type::global || arguments.type != Type::tuple) error("a call of something that has no name");
    if (f.text != ordered_dict) return push({.type = Type::call, .items = std::move(items)});
    if (!arguments.items.empty()) error("an OrderedDict made of arguments");
    push_empty(Type::dict);
  }
  // The state of an object: of a state dict, its _metadata. Nothing of it is kept.
  void build() {
    last(1);
    top(Type::dict, "a dict to give a state");
  }
  void memorise(uint32_t i) {
    if (stack_.empty() || (!marks_.empty() && stack_.size() == marks_.back())) error("the stack is empty");
    // Every pickler counts up, and gives a value one number.
    if (i > memo_.size() || i == max_values) error(fmt::format("memo {} before {}", i, memo_.size()));
    if (i == memo_.size()) memo_.push_back(stack_.back());
    else memo_[i] = stack_.back();
  }
  void recall(uint32_t i) {
    if (i >= memo_.size()) error(fmt::format("memo {} of {}", i, memo_.size()));
    stack_.push_back(memo_[i]);
  }

  std::deque<PickleValue>& values_;
  std::span<const uint8_t> bytes_;
  Cursor cursor_;
  std::span<const std::string_view> globals_;
  uint64_t op_at_ = 0;
  size_t items_ = 0;
  std::vector<uint32_t> stack_, memo_;
  std::vector<size_t> marks_;
};

Pickle::Pickle(std::span<const uint8_t> bytes, const std::string& where, std::span<const std::string_view> globals) {
  root_ = PickleMachine(*this, bytes, where, globals).run();
}

}  // namespace facet
