#include <catch2/catch.hpp>

#include <cmath>
#include <fstream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>

#include "optim/adamw.h"
#include "optim/clip.h"
#include "optim/schedule.h"
#include "optim/sgd.h"
#include "tensor/cpu/tier.h"
#include "tensor/kernels/adamw.h"
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
}

TEST_CASE("schedules: warm-up, ends, names") {
  const Schedule warm{Schedule::Shape::constant, 4, 0, 0};
  CHECK(warm(0) == 0);
  CHECK(warm(2) == 0.5);
  CHECK(warm(4) == 1);
  CHECK(warm(1000) == 1);
  CHECK(Schedule{Schedule::Shape::cosine, 3, 3, 0}(3) == 1);  // nothing but warm-up
  CHECK(Schedule{Schedule::Shape::cosine, 3, 3, 0}(4) == Approx(0).margin(1e-15));
  for (const char* name : {"constant", "linear", "cosine"}) CHECK(std::string(name_of(schedule_shape(name))) == name);
  CHECK_THROWS_WITH(schedule_shape("cosin"), Catch::Contains("\"cosin\": expected constant, linear or cosine"));
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
  AdamW through({{{p.get()}, 1, 0.1}, {{q.get()}}});
  run(through, *p, *q, 0, 3);
  NamedTensors saved;
  for (const auto& [name, tensor] : through.state()) saved.emplace_back(name, tensor.clone());
  const auto p2 = parameter("a.p", p->value().detach()), q2 = parameter("b.q", q->value().detach());
  run(through, *p, *q, 3, 6);

  AdamW resumed({{{p2.get()}, 1, 0.1}, {{q2.get()}}});
  std::swap(saved[1], saved.back());  // order does not matter
  resumed.load_state(saved);
  CHECK(resumed.steps() == 3);
  run(resumed, *p2, *q2, 3, 6);
  CHECK(bitwise_equal(p->value().detach(), p2->value().detach()));
  CHECK(bitwise_equal(q->value().detach(), q2->value().detach()));
  const auto a = through.state(), b = resumed.state();
  REQUIRE(a.size() == (t == DType::bf16 ? 7 : 5));
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
