"""Distillation: the divergence against torch and against samples, who drives whom, and that students learn."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch.distributions import Beta, Categorical, kl_divergence

from durotaxis.agent import ActionDistribution, ActionParameters, ActorCriticConfig, Encoder, EncoderConfig
from durotaxis.agent import HybridActorCritic as Agent
from durotaxis.core.errors import UserError
from durotaxis.core.randomness import hash_keys
from durotaxis.env import DurotaxisEnv, EnvConfig
from durotaxis.pretrain import distill as module
from durotaxis.pretrain.distill import (
    DistillConfig,
    Targets,
    action_kl,
    beta_kl,
    distill,
    held_out,
    measure,
    play,
    sit_down,
)

ENV = EnvConfig(
    max_nodes=10,
    critical_nodes=6,
    max_steps=6,
    observation={"field": True},
    substrate={"size": (80.0, 50.0)},
)
CONFIG = DistillConfig(total_steps=16, num_colonies=4, rollout_steps=2, num_epochs=1, num_minibatches=2)


def make_agent(seed, use_wsa=True):
    torch.manual_seed(seed)
    config = ActorCriticConfig(
        use_wsa=use_wsa,
        hidden_dim=16,
        dropout_rate=0.5,
        backbone={"model_type": "graph_cnn", "tap": "block1"},
        wsa_config={
            "embedding_dim": 8,
            "context_dim": 4,
            "ptms": [
                {"model_type": "graph_cnn", "tap": "block1"},
                {"model_type": "graph_cnn", "freeze": False, "tap": "block1"},
            ],
        },
    )
    encoder = Encoder(EncoderConfig(num_layers=1, hidden_dim=16, out_dim=32, num_heads=2))
    agent = Agent(encoder, config).eval()
    with torch.no_grad():  # loud heads: two agents differ in every state
        for name, parameter in agent.actor.heads.named_parameters():
            if "head" in name and parameter.dim() == 2:
                parameter.normal_(std=0.5)
    return agent


def make_world(num_colonies=4):
    return DurotaxisEnv(ENV, num_colonies)


@pytest.mark.parametrize(
    "values", [(1.1, 2.0, 3.0, 1.5), (40.0, 3.0, 2.0, 60.0), (300.0, 500.0, 310.0, 490.0)]
)
def test_the_divergence_of_betas_is_torchs(values):
    one, two, three, four = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values)
    ours, theirs = beta_kl(one, two, three, four), kl_divergence(Beta(one, two), Beta(three, four))
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, [three, four]), torch.autograd.grad(theirs, [three, four]), strict=True
    ):
        torch.testing.assert_close(a, b)
    assert float(beta_kl(one, two, one, two).detach()) == 0
    in_single = beta_kl(*(torch.tensor(value) for value in values))
    torch.testing.assert_close(in_single.double(), theirs.detach(), atol=1e-3, rtol=1e-3)


NODES, SLOTS = 3, 4
ALLOWED = torch.tensor([[True, True, True], [True, True, False], [True, False, True], [False] * 3])


def distribution(seed, copies=1):
    """The same colony of three nodes, so many times."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(NODES, 3, generator=generator)
    alpha, beta = 1 + 5 * torch.rand(2, NODES, 4, generator=generator)
    parts = (part.repeat(copies, 1) for part in (logits, alpha, beta))
    mask = (torch.arange(SLOTS) < NODES).expand(copies, -1)
    return ActionDistribution(ActionParameters(*parts), mask, ALLOWED.expand(copies, -1, -1))


def targets_of(teacher):
    return Targets(teacher.kind_probs, teacher.alpha, teacher.beta, torch.zeros(1))


def test_the_divergence_of_actions_is_that_of_torch_per_node():
    teacher, student = distribution(0), distribution(1)
    found = action_kl(targets_of(teacher), student)
    assert found.shape == (1, SLOTS)
    assert float(found[0, NODES]) == 0
    for node in range(NODES):
        p, q = (Categorical(probs=d.kind_probs[0, node]) for d in (teacher, student))
        betas = [Beta(d.alpha[0, node], d.beta[0, node]) for d in (teacher, student)]
        expected = kl_divergence(p, q) + p.probs[1] * kl_divergence(*betas).sum()
        torch.testing.assert_close(found[0, node], expected, atol=1e-5, rtol=1e-5)
    assert float(action_kl(targets_of(teacher), teacher).abs().max()) < 1e-6


def test_the_divergence_of_actions_is_the_mean_of_sampled_log_ratios():
    """The densities that PPO uses, over actions drawn as PPO draws them."""
    copies = 40_000
    teacher, student = distribution(0, copies), distribution(1, copies)
    sample = teacher.sample(hash_keys(3, torch.arange(copies)))
    ratios = (teacher.log_prob(sample) - student.log_prob(sample))[:, :NODES].double()
    exact = action_kl(targets_of(distribution(0)), distribution(1))[0, :NODES].double()
    error = ratios.std(0) / copies**0.5
    assert bool(((ratios.mean(0) - exact).abs() < 4 * error).all())
    assert bool((error < 0.03 * exact.clamp_min(0.3)).all())


def test_forbidden_kinds_give_no_gradient_and_no_nan():
    logits = torch.randn(NODES, 3, requires_grad=True)
    ones = torch.full((NODES, 4), 2.0)
    mask = torch.arange(SLOTS)[None] < NODES
    student = ActionDistribution(ActionParameters(1e3 * logits, ones, ones), mask, ALLOWED[None])
    action_kl(targets_of(distribution(0)), student).sum().backward()
    assert bool(logits.grad.isfinite().all())
    assert float(logits.grad[1, 2]) == float(logits.grad[2, 1]) == 0


def everything(lesson):
    parts = lesson.observation
    return [
        parts.nodes,
        parts.node_mask,
        parts.graph,
        parts.field,
        lesson.targets.kind_probs,
        lesson.targets.alpha,
        lesson.targets.value,
    ]


def same(one, two, rows=slice(None)):
    """Lessons of T steps of 4 colonies, compared in some of the colonies."""
    pairs = zip(everything(one), everything(two), strict=True)
    return all(torch.allclose(a.view(-1, 4, *a.shape[1:])[:, rows], b.view(-1, 4, *b.shape[1:])[:, rows], atol=1e-5) for a, b in pairs)  # fmt: skip


def test_the_first_colonies_are_driven_by_the_student_and_the_others_by_the_teacher():
    teacher, student, other = make_agent(0, use_wsa=False), make_agent(1), make_agent(2)

    def lesson(student, driven):
        world = make_world()
        return play(world, teacher, student, sit_down(world, 5, 1), 5, driven, 5, 1)[0]

    by_teacher, by_student, mixed = lesson(student, 0), lesson(student, 4), lesson(student, 2)
    first, last = slice(0, 2), slice(2, 4)
    assert same(mixed, by_student, first)
    assert same(mixed, by_teacher, last)
    assert not same(mixed, by_teacher, first)
    assert same(by_teacher, lesson(other, 0))
    assert not same(by_student, lesson(other, 4))


def test_a_student_with_values_of_terms_learns_the_value_of_the_state():
    teacher, like = make_agent(0), make_agent(1)
    student = Agent(like.encoder, like.config, value_heads="terms", reward_terms=("a", "b")).eval()

    def lesson_of(teacher, student):
        world = make_world()
        return play(world, teacher, student, sit_down(world, 0, 1), 2, 0, 0, 1)[0]

    lesson = lesson_of(teacher, student)
    with torch.no_grad():
        wrong = student(lesson.observation)[1].sum(1) - teacher(lesson.observation)[1]
    found = measure(student, lesson)["value_error"]
    assert found == pytest.approx(float(wrong.square().mean().sqrt()), rel=1e-4)
    (row,) = distill(make_world(), teacher, student, CONFIG.model_copy(update={"total_steps": 8}), 0)
    assert row["value_loss"] > 0
    bias = student.value_head.bias.tolist()  # an error of the sum is the same to both
    assert bias[0] == pytest.approx(bias[1], rel=1e-5)
    assert abs(bias[0]) > 1e-5
    by_terms = lesson_of(student, teacher)
    torch.testing.assert_close(by_terms.targets.value, student(by_terms.observation)[1].sum(1).detach())


def test_a_lesson_is_what_the_teacher_says_of_its_states():
    teacher, student = make_agent(0, use_wsa=False), make_agent(1)
    world = make_world()
    lesson, seats = play(world, teacher, student, sit_down(world, 0, 1), 8, 2, 0, 1, every=4)
    assert len(lesson.targets.value) == 2 * 4
    assert int(seats.episode.min()) >= 1, "no episode ended"
    with torch.no_grad():
        said, value = teacher(lesson.observation)
    torch.testing.assert_close(lesson.targets.kind_probs, said.kind_probs)
    torch.testing.assert_close(lesson.targets.value, value)
    torch.testing.assert_close(
        measure(teacher, dataclasses.replace(lesson, cached=None))["kl"], 0.0, atol=1e-5, rtol=0
    )
    cached = student.precompute(lesson.observation)
    torch.testing.assert_close(lesson.cached.features, cached.features)


@pytest.fixture(scope="module")
def taught():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "HELD_OUT_STEPS", 16)
        yield teach()


def teach():
    teacher, student = make_agent(0, use_wsa=False), make_agent(1)
    config = DistillConfig(
        total_steps=256, num_colonies=8, rollout_steps=4, num_epochs=6, num_minibatches=1, learning_rate=1e-2
    )
    states = held_out(make_world(), teacher, student, 0, by_student=False)
    before, weights = measure(student, states), {k: v.clone() for k, v in teacher.state_dict().items()}
    frozen = student.frozen_hash()
    rows = list(distill(make_world(8), teacher, student, config, 0))
    return before, measure(student, states), rows, (teacher, weights), (student, frozen)


def test_the_student_comes_near_the_teacher_on_states_it_was_not_taught_on(taught):
    before, after, rows, _, _ = taught
    assert before["kl"] > 1
    assert after["kl"] < 0.5 * before["kl"]
    assert after["kl_per_node"] < 0.5 * before["kl_per_node"]
    assert after["value_error"] < before["value_error"]
    assert [row["step"] for row in rows] == [32 * i for i in range(1, 9)]


def test_only_what_learns_is_changed(taught):
    *_, (teacher, weights), (student, frozen) = taught
    assert all(torch.equal(value, weights[name]) for name, value in teacher.state_dict().items())
    assert student.frozen_hash() == frozen
    assert not student.training


def test_dropout_acts_in_the_heads_while_learning_and_nowhere_else():
    teacher, student = make_agent(0, use_wsa=False), make_agent(1)
    seen = set()

    def note(part, *_):
        backbones = [m.training for ptm in part.actor.extractor.ptms for m in ptm.backbone.modules()]
        seen.add((torch.is_grad_enabled(), part.actor.heads.training, part.critic.training, any(backbones)))

    student.register_forward_pre_hook(note)
    list(distill(make_world(), teacher, student, CONFIG, 0))
    assert seen == {(True, True, True, False), (False, False, False, False)}


def test_it_is_a_function_of_the_seed():
    runs = []

    def run(seed):
        teacher, student = make_agent(0, use_wsa=False), make_agent(1)
        torch.rand(seed + 1 + len(runs))  # torch's own numbers do not matter
        runs.append(seed)
        rows = list(distill(make_world(), teacher, student, CONFIG, seed))
        return [row["kl"] for row in rows], student.state_dict()

    (one, weights), (two, again), (other, _) = run(0), run(0), run(1)
    assert one == two
    assert all(torch.equal(value, again[name]) for name, value in weights.items())
    assert one != other


def test_held_out_episodes_are_not_those_that_are_taught():
    world = make_world()
    starts = [sit_down(world, 0, use).observation.nodes.clone() for use in (module._TAUGHT, module._HELD_OUT)]
    assert not torch.equal(*starts)


def test_a_wrong_batch_and_a_broken_loss_are_refused():
    teacher, student = make_agent(0, use_wsa=False), make_agent(1)
    with pytest.raises(UserError, match=r"the world has 3 colonies, distill\.num_colonies is 4"):
        next(distill(make_world(3), teacher, student, CONFIG, 0))
    broken = copy.deepcopy(teacher)
    torch.nn.init.constant_(broken.critic.value_head.bias, float("nan"))
    with pytest.raises(
        UserError, match=r"the loss is not finite .kl .*, value nan.; try a lower distill\.learning_rate"
    ):
        next(distill(make_world(), broken, student, CONFIG, 0))
