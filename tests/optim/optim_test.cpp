#include <catch2/catch.hpp>

#include <cmath>
#include <fstream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>

#include "autograd/ops.h"
#include "optim/adafactor.h"
#include "optim/adamw.h"
#include "optim/clip.h"
#include "optim/lion.h"
#include "optim/schedule.h"
#include "optim/sgd.h"
#include "tensor/cpu/tier.h"
#include "tensor/kernels/adafactor.h"
#include "tensor/kernels/adamw.h"
#include "tensor/kernels/lion.h"
#include "tensor/parallel.h"
#include "tests/support/contract.h"
#include "tests/support/goldens.h"

using namespace facet;
using namespace facet::test;

namespace {

/// Adds g to the parameter's gradient, as a backward pass would.
void send(Parameter& p, const Tensor& g) { backward(p.value(), g); }

std::unique_ptr<Parameter> parameter(const std::string& name, const Tensor& value) {
  auto p = std::make_unique<Parameter>(value.clone());
  p->name = name;
  return p;
}

/// The parameters a, b, c, d of the optimizer goldens.
struct Four {
  std::vector<std::unique_ptr<Parameter>> own;
  std::vector<Parameter*> all, matrices, vectors;

  Four(const Golden& golden, DType t) {
    for (const char* name : {"a", "b", "c", "d"}) {
      own.push_back(parameter(name, golden[std::string("init/") + name].to(t)));
      all.push_back(own.back().get());
      (own.back()->value().rank() > 1 ? matrices : vectors).push_back(own.back().get());
    }
  }
};

struct Case {
  const char* name;
  double lr;
  std::function<std::unique_ptr<Optimizer>(const Four&)> make;
  double clip = 0;
  Schedule schedule = {};
  int accumulate = 1;
  double rtol = 1e-12;
};

const Case cases[] = {
    {"sgd", 1e-2, [](const Four& f) { return std::make_unique<Sgd>(std::vector<ParameterGroup>{{f.all}}); }},
    {"sgd_momentum", 1e-2,
     [](const Four& f) { return std::make_unique<Sgd>(std::vector<ParameterGroup>{{f.all}}, SgdOptions{0.9}); }},
    {"sgd_nesterov", 1e-2,
     [](const Four& f) { return std::make_unique<Sgd>(std::vector<ParameterGroup>{{f.all}}, SgdOptions{0.9, true}); }},
    {"clip_sgd", 1.0, [](const Four& f) { return std::make_unique<Sgd>(std::vector<ParameterGroup>{{f.all}}); }, 0.5},
    {"adam", 1e-2, [](const Four& f) { return std::make_unique<AdamW>(std::vector<ParameterGroup>{{f.all}}); }},
    {"adam_b95_eps_root", 1e-2,
     [](const Four& f) {
       return std::make_unique<AdamW>(std::vector<ParameterGroup>{{f.all}}, AdamWOptions{0.8, 0.95, 1e-6, 1e-4});
     }},
    {"adamw", 1e-2,
     [](const Four& f) {
       return std::make_unique<AdamW>(std::vector<ParameterGroup>{{f.all, 1, 0.1}}, AdamWOptions{.beta2 = 0.95});
     }},
    {"adamw_masked", 1e-2 / 4,  // the groups' scale makes up for the rate
     [](const Four& f) {
       return std::make_unique<AdamW>(std::vector<ParameterGroup>{{f.matrices, 4, 0.1}, {f.vectors, 4, 0}});
     }},
    {"clip_adamw_warmup_cosine", 1e-2,
     [](const Four& f) {
       return std::make_unique<AdamW>(std::vector<ParameterGroup>{{f.all, 1, 0.1}}, AdamWOptions{.beta2 = 0.95});
     },
     1.0, {Schedule::Shape::cosine, 2, 5, 0.1}, 1, 1e-8},  // optax took this cosine in f32
    {"lion", 1e-3, [](const Four& f) { return std::make_unique<Lion>(std::vector<ParameterGroup>{{f.all, 1, 1e-3}}); }},
    {"adafactor", 1e-2,
     [](const Four& f) { return std::make_unique<Adafactor>(std::vector<ParameterGroup>{{f.all}}, AdafactorOptions{.least_factored = 2}); },
     0, {}, 1, 1e-8},  // optax takes the decay in f32
    {"adafactor_unfactored", 1e-2, [](const Four& f) { return std::make_unique<Adafactor>(std::vector<ParameterGroup>{{f.all}}); }, 0, {}, 1, 1e-8},
    {"adafactor_plain", 1e-2,
     [](const Four& f) {
       return std::make_unique<Adafactor>(std::vector<ParameterGroup>{{f.all}}, AdafactorOptions{.clip = 0, .min_scale = 0, .least_factored = 2});
     },
     0, {}, 1, 1e-8},
    {"accumulate2_adam", 1e-2, [](const Four& f) { return std::make_unique<AdamW>(std::vector<ParameterGroup>{{f.all}}); }, 0, {}, 2},
};

nlohmann::json optim_json() { return nlohmann::json::parse(std::ifstream(golden_path("optim.json"))); }

}  // namespace

TEST_CASE("optimizers follow optax") {
  const Golden golden("optim.safetensors");
  const auto json = optim_json();
  for (const Case& c : cases) {
    for (DType t : {DType::f64, DType::f32}) {
      INFO(c.name << " in " << name_of(t));
      Four f(golden, t);
      const auto optimizer = c.make(f);
      int64_t steps = 0;
      for (int k = 0; k < 5; ++k) {
        for (Parameter* p : f.all) send(*p, golden["grad" + std::to_string(k) + "/" + p->name].to(t));
        if (c.accumulate == 1) {
          const Clip clip = clip_global_norm(optimizer->parameters(), c.clip);
          CHECK(clip.norm == Approx(json["gradient_global_norms"][k]["global_norm"].get<double>()).epsilon(t == DType::f64 ? 1e-13 : 1e-6));
          optimizer->step(c.lr * c.schedule(steps++), clip.scale);
        } else if (k % c.accumulate == c.accumulate - 1) {
          optimizer->step(c.lr * c.schedule(steps++), 1.0 / c.accumulate);  // optax takes the mean
        }
        for (Parameter* p : f.all) {
          INFO("step " << k << " parameter " << p->name);
          const double rtol = t == DType::f64 ? c.rtol : 2e-6;
          CHECK(close(p->value(), golden[std::string(c.name) + "/step" + std::to_string(k) + "/" + p->name], rtol, rtol * 0.1));
        }
      }
    }
  }
}

TEST_CASE("schedules follow optax") {
  const auto json = optim_json()["schedules"];
  const auto check = [&](const char* name, double peak, const Schedule& s, int64_t begin = 0) {
    INFO(name);
    for (int64_t i = 0; i < 24; ++i)
      CHECK(peak * s(i - begin) == Approx(json[name]["count_from_0"][i].get<double>()).epsilon(1e-12).margin(1e-18));
  };
  check("constant", 3e-4, {});
  check("cosine_decay", 1e-3, {Schedule::Shape::cosine, 0, 15, 0.1});
  check("warmup_cosine", 1e-3, {Schedule::Shape::cosine, 5, 20, 0.1});
  check("warmup_linear_joined", 1e-3, {Schedule::Shape::linear, 4, 14, 0});
  check("linear", 1e-3, {Schedule::Shape::linear, 0, 12, 0.01}, 3);  // optax begins to fall after 3 steps
  check("exponential", 1e-3, {Schedule::Shape::exponential, 0, 25, std::pow(0.5, 5)});  // half after 5 steps
}

TEST_CASE("schedules: warm-up, ends, names") {
  const Schedule warm{Schedule::Shape::constant, 4, 0, 0};
  CHECK(warm(0) == 0);
  CHECK(warm(2) == 0.5);
  CHECK(warm(4) == 1);
  CHECK(warm(1000) == 1);
  CHECK(Schedule{Schedule::Shape::cosine, 3, 3, 0}(3) == 1);  // nothing but warm-up
  CHECK(Schedule{Schedule::Shape::cosine, 3, 3, 0}(4) == Approx(0).margin(1e-15));
  for (const char* name : {"constant", "linear", "cosine", "wsd", "exponential", "inverse-sqrt"}) CHECK(std::string(name_of(schedule_shape(name))) == name);
  CHECK_THROWS_WITH(schedule_shape("cosin"), Catch::Contains("\"cosin\": expected constant, linear, cosine, wsd, exponential or inverse-sqrt"));
}

TEST_CASE("schedules: stable and then down, and the inverse root") {
  const Schedule wsd{.shape = Schedule::Shape::wsd, .warmup = 2, .steps = 12, .min_ratio = 0.2, .decay = 4};
  CHECK(wsd(1) == 0.5);
  for (const int64_t stable : {2, 5, 8}) CHECK(wsd(stable) == 1);
  CHECK(wsd(9) == Approx(0.8));
  CHECK(wsd(11) == Approx(0.4));
  for (const int64_t end : {12, 100}) CHECK(wsd(end) == Approx(0.2));
  CHECK(Schedule{.shape = Schedule::Shape::wsd, .warmup = 5, .steps = 8, .decay = 100}(5) == 1);  // the fall waits for the warm-up

  const Schedule falling{.shape = Schedule::Shape::exponential, .warmup = 2, .steps = 12, .min_ratio = 0.01};
  CHECK(falling(1) == 0.5);
  CHECK(falling(2) == 1);
  CHECK(falling(7) == Approx(0.1));
  for (const int64_t end : {12, 100}) CHECK(falling(end) == 0.01);

  const Schedule root{.shape = Schedule::Shape::inverse_sqrt, .warmup = 4, .steps = 10, .min_ratio = 0.1};
  CHECK(root(2) == 0.5);
  CHECK(root(4) == 1);
  CHECK(root(16) == 0.5);
  CHECK(root(64) == 0.25);
  CHECK(root(1'000'000) == 0.1);
  CHECK(Schedule{.shape = Schedule::Shape::inverse_sqrt}(0) == 1);
}

namespace {
/// Runs f on every tier and on 1, 2, 4 and 8 threads: close to `expected`, and the same bits on any number of threads.
void on_every_machine(const std::function<std::vector<Tensor>()>& f, const std::vector<Tensor>& expected, double rtol, double atol) {
  MachineScope restore;
  for (int tier = 0; tier <= static_cast<int>(cpu::best_tier()); ++tier) {
    cpu::set_tier(static_cast<cpu::Tier>(tier));
    std::vector<Tensor> first;
    for (int t : {1, 2, 4, 8}) {
      set_threads(t);
      const std::vector<Tensor> y = f();
      if (first.empty()) first = y;
      for (size_t i = 0; i < y.size(); ++i) {
        CHECK(close(y[i], expected[i], rtol, atol));
        CHECK(bitwise_equal(y[i], first[i]));
      }
    }
  }
}
}  // namespace

TEST_CASE("lion kernel: every tier, tail and thread count") {
  Random r(11);
  for (int64_t n : {1, 3, 15, 16, 17, 31, 100003}) {
    INFO(n);
    const Tensor p0 = r.normal({n}, DType::f32), g = r.normal({n}, DType::f32), m0 = r.normal({n}, DType::f32);
    std::vector<double> p = p0.to_vector(), m = m0.to_vector();
    const auto gs = g.to_vector();
    for (size_t i = 0; i < p.size(); ++i) {
      const double d = 0.7 * gs[i], mix = 0.8 * m[i] + 0.2 * d;
      m[i] = 0.95 * m[i] + 0.05 * d;
      p[i] -= 0.1 * ((mix > 0) - (mix < 0) + 0.3 * p[i]);
    }
    on_every_machine(
        [&] {
          const Tensor a = p0.clone(), b = m0.clone();
          lion(a.out(), {}, g.view(), b.out(), {.lr = 0.1, .beta1 = 0.8, .beta2 = 0.95, .weight_decay = 0.3, .grad_scale = 0.7});
          return std::vector{a, b};
        },
        {Tensor::from(p, {n}), Tensor::from(m, {n})}, 1e-5, 1e-6);
  }
  // No gradient and no momentum: no sign. A gradient that overflowed: nothing is written.
  const Tensor p = Tensor::full({3}, 2), zero = Tensor::zeros({3}), m = Tensor::zeros({3});
  lion(p.out(), {}, zero.view(), m.out(), {.lr = 0.5});
  CHECK(p.at({1}) == 2);
  lion(p.out(), {}, Tensor::full({3}, 1).view(), m.out(), {.lr = 0.5, .grad_scale = std::numeric_limits<double>::infinity()});
  CHECK(p.at({1}) == 2);
  CHECK(m.at({1}) == 0);
}

TEST_CASE("adafactor kernel: every tier, shape and thread count") {
  Random r(12);
  const AdafactorStep step{.lr = 0.1, .decay = 0.6, .eps = 1e-3, .clip = 0.4, .min_scale = 1e-3, .weight_decay = 0.3, .grad_scale = 0.7};
  for (const Shape& s : {Shape{1, 1}, Shape{2, 3}, Shape{31, 17}, Shape{65, 16}, Shape{300, 70}, Shape{1, 2049}}) {
    for (const bool factored : {true, false}) {
      INFO(to_string(s) << (factored ? " factored" : ""));
      const auto R = static_cast<size_t>(s[0]), C = static_cast<size_t>(s[1]);
      const Tensor p0 = r.normal(s, DType::f32), g = r.normal(s, DType::f32);
      const Tensor rows0 = r.uniform({s[0]}, 0.5, 2, DType::f32), cols0 = r.uniform({s[1]}, 0.5, 2, DType::f32), v0 = r.uniform(s, 0.5, 2, DType::f32);
      std::vector<double> p = p0.to_vector(), d = g.to_vector(), rows = rows0.to_vector(), cols = cols0.to_vector(), v = v0.to_vector(), u(p.size());
      for (double& x : rows) x *= 0.6;
      for (double& x : cols) x *= 0.6;
      for (size_t i = 0; i < d.size(); ++i) {
        d[i] *= 0.7;
        const double square = 0.4 * (d[i] * d[i] + 1e-3);
        rows[i / C] += square / static_cast<double>(C);
        cols[i % C] += square / static_cast<double>(R);
        v[i] = 0.6 * v[i] + square;
      }
      double mean = 0, uu = 0, pp = 0;
      for (double x : rows) mean += x / static_cast<double>(R);
      for (size_t i = 0; i < d.size(); ++i) {
        u[i] = d[i] / std::sqrt(factored ? rows[i / C] / mean * cols[i % C] : v[i]);
        uu += u[i] * u[i] / static_cast<double>(d.size());
        pp += p[i] * p[i] / static_cast<double>(d.size());
      }
      for (size_t i = 0; i < p.size(); ++i)
        p[i] -= 0.1 * (std::max(1e-3, std::sqrt(pp)) * u[i] / std::max(1.0, std::sqrt(uu) / 0.4) + 0.3 * p[i]);
      std::vector<Tensor> expected{Tensor::from(p, s)};
      if (factored) expected.insert(expected.end(), {Tensor::from(rows, {s[0]}), Tensor::from(cols, {s[1]})});
      else expected.push_back(Tensor::from(v, s));
      on_every_machine(
          [&] {
            const Tensor a = p0.clone(), b = rows0.clone(), c = cols0.clone(), e = v0.clone();
            if (factored) adafactor(a.out(), {}, g.view(), b.out(), c.out(), {}, step);
            else adafactor(a.out(), {}, g.view(), {}, {}, e.out(), step);
            return factored ? std::vector{a, b, c} : std::vector{a, e};
          },
          expected, 2e-5, 2e-6);
    }
  }
}

TEST_CASE("Lion, Adafactor: bf16 values follow their f32 masters, and state comes back") {
  Random r(13);
  const Tensor start = r.normal({130, 140}, DType::f32).to(DType::bf16);
  std::vector<Tensor> grads;
  for (int i = 0; i < 6; ++i) grads.push_back(r.normal({130, 140}, DType::f32).to(DType::bf16));
  const auto make = [](int kind, Parameter* p) -> std::unique_ptr<Optimizer> {
    const std::vector<ParameterGroup> groups{{{p}, 1, 0.1}};
    if (kind == 0) return std::make_unique<Lion>(groups);
    return std::make_unique<Adafactor>(groups, AdafactorOptions{.least_factored = kind == 1 ? 128 : 1000});
  };
  const size_t n = 130 * 140, bytes[] = {8 * n, 4 * n + 4 * (130 + 140), 8 * n};
  for (int kind = 0; kind < 3; ++kind) {
    INFO(kind);
    const auto p = parameter("w", start), twin = parameter("w", start.to(DType::f32));
    const auto a = make(kind, p.get()), b = make(kind, twin.get());
    CHECK(a->state_bytes() == bytes[kind]);
    const auto run = [&](Optimizer& o, Parameter& q, size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) {
        send(q, grads[i].to(q.value().dtype()));
        o.step(1e-4);  // far below half an ulp of bf16 at 1
      }
    };
    run(*a, *p, 0, 3);
    NamedTensors saved;
    for (const auto& [name, tensor] : a->state()) saved.emplace_back(name, tensor.clone());
    const auto later = parameter("w", p->value().detach());
    const auto resumed = make(kind, later.get());
    resumed->load_state(saved);
    run(*a, *p, 3, 6);
    run(*resumed, *later, 3, 6);
    run(*b, *twin, 0, 6);
    CHECK(bitwise_equal(p->value().detach(), twin->value().detach().to(DType::bf16)));
    CHECK(bitwise_equal(p->value().detach(), later->value().detach()));
    CHECK_FALSE(bitwise_equal(p->value().detach(), start));
  }
}

TEST_CASE("adamw kernel: every tier, tail and thread count") {
  MachineScope restore;
  Random r(1);
  for (int64_t n : {1, 3, 15, 16, 17, 31, 100003}) {
    INFO(n);
    const Tensor p0 = r.normal({n}, DType::f32), g = r.normal({n}, DType::f32);
    const Tensor m0 = r.normal({n}, DType::f32), v0 = r.uniform({n}, 0, 1, DType::f32);
    const AdamwStep step{.lr = 0.1, .beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6, .eps_root = 1e-4, .weight_decay = 0.3, .grad_scale = 0.7, .t = 3};
    std::vector<double> p = p0.to_vector(), m = m0.to_vector(), v = v0.to_vector();
    const auto gs = g.to_vector();
    for (int64_t i = 0; i < n; ++i) {
      const double d = 0.7 * gs[i];
      m[i] = 0.8 * m[i] + 0.2 * d;
      v[i] = 0.95 * v[i] + 0.05 * d * d;
      const double mh = m[i] / (1 - std::pow(0.8, 3)), vh = v[i] / (1 - std::pow(0.95, 3));
      p[i] -= 0.1 * (mh / (std::sqrt(vh + 1e-4) + 1e-6) + 0.3 * p[i]);
    }
    for (int tier = 0; tier <= static_cast<int>(cpu::best_tier()); ++tier) {
      cpu::set_tier(static_cast<cpu::Tier>(tier));
      Tensor first;
      for (int t : {1, 2, 4, 8}) {
        set_threads(t);
        const Tensor a = p0.clone(), b = m0.clone(), c = v0.clone();
        adamw(a.out(), {}, g.view(), b.out(), c.out(), step);
        CHECK(close(a, Tensor::from(p, {n}), 1e-5, 1e-6));
        CHECK(close(b, Tensor::from(m, {n}), 1e-6, 1e-7));
        CHECK(close(c, Tensor::from(v, {n}), 1e-6, 1e-7));
        if (!first) first = a;
        CHECK(bitwise_equal(a, first));
      }
    }
  }
}

TEST_CASE("AdamW: bf16 values have an f32 master") {
  const auto p = parameter("w", Tensor::full({33}, 1, DType::bf16));
  const auto twin = parameter("w", Tensor::full({33}, 1));
  AdamW a({{{p.get()}, 1, 0.1}}), b({{{twin.get()}, 1, 0.1}});
  for (int i = 0; i < 200; ++i) {  // each update is far below half an ulp of bf16 at 1 (2^-9)
    send(*p, Tensor::full({33}, 0.5, DType::f32).to(DType::bf16));
    send(*twin, Tensor::full({33}, 0.5));
    a.step(1e-4);
    b.step(1e-4);
  }
  const Tensor expected = twin->value().detach();
  CHECK(expected.at({0}) < 0.99);
  CHECK(bitwise_equal(p->value().detach(), expected.to(DType::bf16)));
  const auto state = a.state();
  REQUIRE(state.size() == 4);
  CHECK(state[3].first == "master.w");
  CHECK(bitwise_equal(state[3].second, expected));
  CHECK(a.state_bytes() == 33 * 12);
}

TEST_CASE("AdamW: what optax makes of bf16 moments") {
  // mu_dtype=bfloat16: only the first moment is kept in bf16, rounded to nearest. Its product with beta1 is bf16 too, and so is beta1:
  // 0.8984375 for 0.9, once the moment is not zero. Ours multiplies in f32 and rounds both moments by chance, so it is not that golden's.
  const Golden golden("optim.safetensors");
  const auto rounded = [](const Tensor& t) { return t.to(DType::bf16).to(DType::f64); };
  const auto differs = [&](const std::function<Tensor(const Tensor&)>& decayed) {
    int values = 0;
    for (const char* name : {"a", "b", "c", "d"}) {
      Tensor p = golden[std::string("init/") + name].to(DType::f64), m = Tensor::zeros(p.shape(), DType::f64), v = m.clone();
      for (int k = 0; k < 5; ++k) {
        const Tensor g = golden["grad" + std::to_string(k) + "/" + name].to(DType::f64);
        const Tensor exact = g * 0.1 + decayed(m);
        v = square(g) * (1 - 0.999) + v * 0.999;
        p = p - exact * (1e-2 / (1 - std::pow(0.9, k + 1))) / (sqrt(v * (1 / (1 - std::pow(0.999, k + 1)))) + 1e-8);
        m = rounded(exact);
        values += !close(p, golden["adamw_bf16_mu/step" + std::to_string(k) + "/" + name], 1e-12, 1e-13);
      }
    }
    return values;
  };
  CHECK(differs([&](const Tensor& m) { return rounded(m * 0.8984375); }) == 0);
  CHECK(differs([&](const Tensor& m) { return rounded(m * 0.9); }) > 0);
  CHECK(differs([&](const Tensor& m) { return m * 0.9; }) > 0);
}

TEST_CASE("AdamW: bf16 moments and no master take a third of the memory and stay right on average") {
  const int64_t n = 4000;
  const auto p = parameter("w", Tensor::full({n}, 1, DType::bf16)), twin = parameter("w", Tensor::full({n}, 1));
  AdamW a({{{p.get()}, 1, 0.1}}, {.bf16_moments = true, .master = false, .key = key(4)}), b({{{twin.get()}, 1, 0.1}});
  CHECK(a.state_bytes() == n * 4);
  for (int i = 0; i < 100; ++i) {
    const float g = i % 3 ? 0.5f : -0.25f;
    send(*p, Tensor::full({n}, g, DType::bf16));
    send(*twin, Tensor::full({n}, g));
    a.step(1e-4);
    b.step(1e-4);
  }
  const auto mean_of = [&](const Tensor& t) {
    double sum = 0;
    for (double x : t.to_vector()) sum += x;
    return sum / static_cast<double>(t.numel());
  };
  CHECK(1 - mean_of(p->value().detach()) == Approx(1 - twin->value().at({0})).epsilon(0.03));
  const auto state = a.state(), exact = b.state();
  REQUIRE(state.size() == 3);
  for (const int k : {1, 2}) {
    CHECK(state[static_cast<size_t>(k)].second.dtype() == DType::bf16);
    CHECK(mean_of(state[static_cast<size_t>(k)].second) == Approx(exact[static_cast<size_t>(k)].second.at({0})).epsilon(0.01));
  }
}

TEST_CASE("optimizer: who is updated") {
  const auto p = parameter("p", Tensor::full({4}, 1)), frozen = parameter("f", Tensor::full({4}, 1)),
             idle = parameter("i", Tensor::full({4}, 1));
  frozen->set_trains(false);
  AdamW o({{{p.get(), frozen.get(), idle.get()}, 1, 0.5}});
  CHECK(o.parameters() == std::vector<Parameter*>{p.get(), idle.get()});
  CHECK(o.state().size() == 5);
  send(*p, Tensor::full({4}, 1));
  o.step(0.1);
  CHECK_FALSE(p->grad());
  CHECK(p->value().at({0}) == Approx(1 - 0.1 * (1 + 0.5)));
  CHECK(close(idle->value(), Tensor::full({4}, 1), 0));
  CHECK(close(frozen->value(), Tensor::full({4}, 1), 0));

  send(*p, Tensor::full({4}, 1));
  const double before = p->value().at({0});
  o.drop_gradients();
  CHECK_FALSE(p->grad());
  o.step(0.1);
  CHECK(p->value().at({0}) == before);
  CHECK(o.steps() == 2);

  // A gradient handed over as a strided view.
  const auto w = parameter("w", Tensor::zeros({2, 3}));
  Sgd s({{{w.get()}}});
  send(*w, Tensor::from({1, 2, 3, 4, 5, 6}, {3, 2}).transpose(0, 1));
  CHECK(clip_global_norm(s.parameters(), 0).norm == Approx(std::sqrt(91.0)));
  s.step(1);
  CHECK(close(w->value(), Tensor::from({-1, -3, -5, -2, -4, -6}, {2, 3}), 0));
}

TEST_CASE("optimizer: a step takes no memory after the first") {
  Random r(2);
  const auto p = parameter("p", r.normal({300, 70}, DType::f32)), q = parameter("q", r.normal({999}, DType::f32).to(DType::bf16));
  AdamW o({{{p.get(), q.get()}, 1, 0.1}});
  const auto step = [&] {
    send(*p, Tensor::full({300, 70}, 0.1));
    send(*q, Tensor::full({999}, 0.1, DType::bf16));
    const Clip clip = clip_global_norm(o.parameters(), 1);
    CHECK(clip.clipped());
    o.step(1e-3, clip.scale);
  };
  step();
  const PoolStats first = pool_stats();
  for (int i = 0; i < 3; ++i) step();
  CHECK(pool_stats().sys_allocs == first.sys_allocs);
  CHECK(pool_stats().live_bytes == first.live_bytes);
}

TEST_CASE("optimizer: state goes out and comes back") {
  const DType t = GENERATE(DType::f32, DType::bf16);
  const bool chance = GENERATE(false, true);
  const AdamWOptions options{.bf16_moments = chance, .master = !chance, .key = key(9)};
  Random r(3);
  const Tensor pv = r.normal({5, 3}, DType::f32).to(t), qv = r.normal({7}, DType::f32).to(t);
  std::vector<Tensor> grads;
  for (int i = 0; i < 12; ++i) grads.push_back(r.normal(i % 2 ? Shape{7} : Shape{5, 3}, DType::f32).to(t));
  const auto run = [&](AdamW& o, Parameter& p, Parameter& q, int begin, int end) {
    for (int i = begin; i < end; ++i) {
      send(p, grads[2 * i].clone());
      send(q, grads[2 * i + 1].clone());
      o.step(0.01);
    }
  };
  const auto p = parameter("a.p", pv), q = parameter("b.q", qv);
  AdamW through({{{p.get()}, 1, 0.1}, {{q.get()}}}, options);
  run(through, *p, *q, 0, 3);
  NamedTensors saved;
  for (const auto& [name, tensor] : through.state()) saved.emplace_back(name, tensor.clone());
  const auto p2 = parameter("a.p", p->value().detach()), q2 = parameter("b.q", q->value().detach());
  run(through, *p, *q, 3, 6);

  AdamW resumed({{{p2.get()}, 1, 0.1}, {{q2.get()}}}, options);
  std::swap(saved[1], saved.back());  // order does not matter
  resumed.load_state(saved);
  CHECK(resumed.steps() == 3);
  run(resumed, *p2, *q2, 3, 6);
  CHECK(bitwise_equal(p->value().detach(), p2->value().detach()));
  CHECK(bitwise_equal(q->value().detach(), q2->value().detach()));
  const auto a = through.state(), b = resumed.state();
  REQUIRE(a.size() == (t == DType::bf16 && !chance ? 7 : 5));
  for (size_t i = 0; i < a.size(); ++i) {
    CHECK(a[i].first == b[i].first);
    CHECK(bitwise_equal(a[i].second, b[i].second));
  }
}

TEST_CASE("optimizer: a state that does not fit is refused and nothing changes") {
  const auto p = parameter("p", Tensor::full({3}, 1));
  AdamW o({{{p.get()}}});
  send(*p, Tensor::full({3}, 1));
  o.step(0.1);
  const NamedTensors good = o.state();
  const auto refused = [&](NamedTensors s, const char* why) {
    std::vector<Tensor> before;
    for (const auto& [name, t] : o.state()) before.push_back(t.clone());
    CHECK_THROWS_WITH(o.load_state(s), Catch::Contains(why));
    const auto after = o.state();
    for (size_t i = 0; i < after.size(); ++i) CHECK(bitwise_equal(after[i].second, before[i]));
  };
  refused({good[0], good[1]}, "\"v.p\" is missing");
  refused({good[1], good[2]}, "\"step\" is missing");
  refused({good[0], good[1], good[2], {"m.q", Tensor::zeros({3})}}, "\"m.q\" belongs to no parameter");
  refused({good[0], good[1], good[2], good[2]}, "\"v.p\" appears twice");
  refused({good[0], {"m.p", Tensor::full({3}, 9)}, {"v.p", Tensor::zeros({4})}}, "\"v.p\" is f32 [4], expected f32 [3]");
  refused({good[0], good[1], {"v.p", Tensor::zeros({3}, DType::f64)}}, "\"v.p\" is f64 [3]");
  refused({{"step", Tensor::scalar(-1, DType::i32)}, good[1], good[2]}, "step is -1");
}

TEST_CASE("optimizer: says what is wrong") {
  const auto p = parameter("p", Tensor::full({3}, 1)), q = parameter("p", Tensor::full({3}, 1)), anonymous = parameter("", Tensor::full({3}, 1));
  CHECK_THROWS_WITH(AdamW({{{p.get()}}, {{p.get()}}}), Catch::Contains("\"p\" [3] is listed twice"));
  CHECK_THROWS_WITH(AdamW({{{nullptr}}}), Catch::Contains("absent"));
  CHECK_THROWS_WITH(AdamW({{{p.get()}}}, {.beta1 = 1}), Catch::Contains("beta1 1"));
  CHECK_THROWS_WITH(AdamW({{{p.get(), q.get()}}}).state(), Catch::Contains("two parameters are named \"p\""));
  CHECK_THROWS_WITH(AdamW({{{anonymous.get()}}}).state(), Catch::Contains("has no name"));
  CHECK_THROWS_WITH(Sgd({{{p.get()}, 1, 0.1}}), Catch::Contains("weight decay"));
  CHECK_THROWS_WITH(Lion({{{p.get()}}}, {.beta2 = 1}), Catch::Contains("beta2 1"));
  CHECK_THROWS_WITH(Adafactor({{{p.get()}}}, {.decay_power = 0}), Catch::Contains("decay_power 0"));
  const auto half = parameter("h", Tensor::full({3}, 1, DType::bf16));
  CHECK_THROWS_WITH(Sgd({{{half.get()}}}), Catch::Contains("\"h\" is bf16"));
  AdamW o({{{p.get()}}});
  p->reset(Tensor::zeros({4}), true);
  CHECK_THROWS_WITH(o.step(0.1), Catch::Contains("was f32 [3] when the optimizer was built and is f32 [4] now"));
}

TEST_CASE("clip: the norm before, the factor, and what is not finite") {
  MachineScope restore;
  Random r(4);
  const auto p = parameter("p", Tensor::zeros({70001})), q = parameter("q", Tensor::zeros({3}));
  std::vector<Parameter*> list{p.get(), q.get()};
  CHECK(clip_global_norm(list, 1).norm == 0);
  CHECK(clip_global_norm(list, 1).scale == 1);
  const Tensor g = r.normal({70001}, DType::f32);
  send(*p, g);
  double expected = 0;
  for (double x : g.to_vector()) expected += x * x;
  for (int tier = 0; tier <= static_cast<int>(cpu::best_tier()); ++tier) {
    cpu::set_tier(static_cast<cpu::Tier>(tier));
    set_threads(1);
    const Clip one = clip_global_norm(list, 2);
    CHECK(one.norm == Approx(std::sqrt(expected)).epsilon(1e-7));
    CHECK(one.scale == 2 / one.norm);
    CHECK(clip_global_norm(list, 1e9).scale == 1);
    CHECK(clip_global_norm(list, 0).scale == 1);
    for (int t : {2, 4, 8}) {
      set_threads(t);
      CHECK(clip_global_norm(list, 2).norm == one.norm);
    }
  }
  for (double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    q->clear_grad();
    send(*q, Tensor::full({3}, bad));
    const Clip clip = clip_global_norm(list, 1);
    CHECK_FALSE(clip.finite());
    CHECK(clip.scale == 1);
  }
}
