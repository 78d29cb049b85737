"""Learning rates, objectives and what a watcher is told."""

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, TaskError
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Homotopy, Learn, Objective, Recipe, Stage, Tap, Term, Training, everywhere
from featherweight.run import run
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.sparse import Fraction, Sparse
from featherweight.schemes.uniform import Uniform
from featherweight.session import begin
from featherweight.training.loop import Progress, rate_at
from featherweight.training.objectives import OutputError, SoftTargets, SquaredError, TaskLoss, distillation
from featherweight.training.penalties import Pull

from .test_resume import EPOCHS, STEPS, X, Y, net, task

LOGITS, TAUGHT = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).double().unbind()
LABELS = torch.tensor([0, 1, 2, 1, 0])


def tap(outputs: Tensor = LOGITS, taught: Any = TAUGHT, student: nn.Module | None = None) -> Tap:
    loss = lambda outputs, batch: F.cross_entropy(outputs, batch[1])  # noqa: E731
    return Tap(outputs, (None, LABELS), taught, student or nn.ReLU(), loss)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_soft_targets(temperature: float) -> None:
    """Hinton, Vinyals and Dean 2015: ``T² KL(p ‖ q)`` in nats, with p and q softened by T."""
    total = 0.0
    for student, teacher in zip(LOGITS.tolist(), TAUGHT.tolist(), strict=True):
        p = [math.exp(each / temperature) for each in teacher]
        q = [math.exp(each / temperature) for each in student]
        total += sum(a / sum(p) * math.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True))
    assert float(SoftTargets(1.0, temperature)(tap())) == pytest.approx(temperature**2 * total / len(LOGITS))
    assert float(SoftTargets(1.0, temperature)(tap(TAUGHT))) == pytest.approx(0, abs=1e-12)


def test_distillation_is_the_weighted_sum() -> None:
    objective = distillation(3.0, 0.7)
    assert objective.needs_teacher
    expected = 0.3 * F.cross_entropy(LOGITS, LABELS) + 0.7 * SoftTargets(1.0, 3.0)(tap())
    torch.testing.assert_close(objective(tap()), expected)
    assert not Objective((TaskLoss(),)).needs_teacher
    torch.testing.assert_close(Objective((TaskLoss(2.0),))(tap(taught=None)), 2 * F.cross_entropy(LOGITS, LABELS))


def test_output_error() -> None:
    expected = (LOGITS - TAUGHT).norm() ** 2 / TAUGHT.norm() ** 2
    torch.testing.assert_close(OutputError()(tap()), expected)


def test_squared_error_to_the_right_class() -> None:
    wanted = torch.eye(3).double()[LABELS]
    torch.testing.assert_close(SquaredError()(tap()), (LOGITS - wanted).square().sum() / 2)
    for batch in (None, (None, LOGITS), (None, LABELS[:, None])):
        with pytest.raises(TaskError, match="class numbers"):
            SquaredError()(replace(tap(), batch=batch))


def test_pull() -> None:
    """``½ Σ ‖w − decode(c)‖²`` and its gradient ``w − decode(c)``."""
    student = Compressed(net())
    code = Codebook(2).project(student.parameter("head.weight").detach())
    student.encode({"head.weight": code}, {"head.weight": Codebook(2)})
    assert float(Pull()(tap(student=student))) == 0
    student.learn({"head.weight": Learn.PULLED})
    latent = student.parameter("head.weight")
    with torch.no_grad():
        latent += torch.randn(latent.shape, generator=torch.Generator().manual_seed(2))
    penalty = Pull()(tap(student=student))
    difference = latent.detach() - code.decode()
    torch.testing.assert_close(penalty, difference.square().sum() / 2)
    penalty.backward()
    torch.testing.assert_close(latent.grad, difference)


def test_learning_rates() -> None:
    """A straight rise over the warm-up, then half a cosine to ``final``."""
    training = Training(1, warmup=0.25, final=0.1)
    rates = [rate_at(step, 40, training) for step in range(41)]
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert rates[10:] == pytest.approx([0.1 + 0.45 * (1 + math.cos(math.pi * t / 30)) for t in range(31)])
    plain = Training(1, final=0.0)
    assert (rate_at(0, 10, plain), rate_at(5, 10, plain)) == pytest.approx((1.0, 0.5))


def test_every_step_is_told() -> None:
    told: list[Progress] = []
    stage = everywhere("share", Codebook(4), training=Training(EPOCHS, 1e-2))
    run(net(), task(), Recipe("told", (stage,)), watch=told.append)
    assert [(p.epoch, p.step) for p in told] == [(1 + n // STEPS, n + 1) for n in range(EPOCHS * STEPS)]
    assert {(p.stage, p.epochs, p.steps) for p in told} == {("share", EPOCHS, EPOCHS * STEPS)}
    assert told[-1].loss < told[0].loss


@pytest.mark.parametrize("learn", Learn)
def test_learning_lowers_the_loss(learn: Learn) -> None:
    """After projection and learning the model is better than after projection alone."""

    def loss(training: Training | None) -> float:
        stage = everywhere("quantize", Uniform(3), learn=learn, training=training)
        student, _ = run(net(), task(), Recipe("lower", (stage,)))
        return float(F.cross_entropy(student(X), Y).detach())

    assert loss(Training(20, 2e-2, code_lr=0.1)) < loss(None) - 0.1


def test_codes_have_a_learning_rate_of_their_own() -> None:
    stage = everywhere("share", Codebook(4), training=Training(1, 1e-2, code_lr=0.0), train_rest=False)
    before = Codebook(4).project(net().head.weight.detach())
    student, _ = run(net(), task(), Recipe("still", (stage,)))
    assert torch.equal(student.codes["head.weight"].decode(), before.decode())
    stage = Stage("share", {"head.weight": Codebook(4)}, training=Training(1, 1e-2, code_lr=1.0), train_rest=False)
    student, _ = run(net(), task(), Recipe("moving", (stage,)))
    assert not torch.equal(student.codes["head.weight"].decode(), before.decode())


@pytest.mark.parametrize(("processor", "expected"), [("AVX512", torch.bfloat16), ("AVX2", torch.float32)])
def test_bfloat16_is_float32_where_it_would_be_slower(
    processor: str, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
    seen = set()

    @dataclass(frozen=True)
    class Watched(TaskLoss):
        def __call__(self, tap: Tap) -> Tensor:
            seen.add(tap.outputs.dtype)
            return super().__call__(tap)

    learned = Stage("learn", training=Training(1, bfloat16=True), objective=Objective((Watched(),)))
    run(net(), task(), Recipe("learn", (learned,)))
    assert seen == {expected}


@pytest.mark.parametrize("mode", [Learn.LATENT, Learn.BOTH, Learn.PULLED])
def test_dense_weights_learn_from_what_was_projected(mode: Learn) -> None:
    """Not from the decoded weight: rounding would have thrown away what a latent weight is for."""
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 4)
    stage = everywhere("quantize", Uniform(2), learn=mode)
    session = begin(model, stage, steps=1)
    assert torch.equal(session.student.parameter("weight"), model.weight)
    assert not torch.equal(session.student.codes["weight"].decode(), model.weight)


@pytest.mark.parametrize("outputs", [torch.zeros(3), (torch.zeros(2, 3),)], ids=["vector", "tuple"])
def test_soft_targets_need_logits(outputs: Any) -> None:
    tap = Tap(outputs, None, outputs, nn.Identity(), lambda out, batch: torch.zeros(()))
    with pytest.raises(TaskError, match="logits"):
        SoftTargets()(tap)


def test_output_error_of_nested_outputs() -> None:
    ours, theirs = {"a": torch.ones(2), "b": (torch.zeros(3),)}, {"a": torch.zeros(2), "b": (torch.ones(3),)}
    tap = Tap(ours, None, theirs, nn.Identity(), lambda out, batch: torch.zeros(()))
    assert OutputError()(tap).item() == pytest.approx(5 / 3)


def test_a_rising_pull_follows_the_schedule() -> None:
    student = Compressed(net())
    scheme = Codebook(2)
    weight = student.parameter("head.weight").detach().clone()
    student.encode({"head.weight": scheme.project(weight)}, {"head.weight": scheme})
    student.learn({"head.weight": Learn.PULLED}, latents={"head.weight": weight})
    now = replace(tap(student=student), target=0.25)
    whole = Pull(3.0)(now).detach()
    assert float(whole) > 0
    torch.testing.assert_close(Pull(3.0, rising=True)(now).detach(), whole / 4)


def test_terms_are_told_the_target_last_reached() -> None:
    told = []

    @dataclass(frozen=True)
    class Told(Term):
        def __call__(self, tap: Tap) -> Tensor:
            told.append(tap.target)
            return tap.loss(tap.outputs, tap.batch)

    stage = everywhere(
        "homotopy",
        Codebook(3),
        learn=Learn.PULLED,
        schedule=Homotopy(2, 4.0),
        training=Training(EPOCHS),
        objective=Objective((Told(),)),
    )
    with pytest.raises(SchemeError, match="gradual"):
        run(net(), task(), Recipe("told", (stage,)))
    stage = replace(stage, schemes={WEIGHTS: Sparse(Fraction(0.5))})
    run(net(), task(), Recipe("told", (stage,)))
    half = EPOCHS * STEPS // 2
    assert told == [0.25] * half + [1.0] * (EPOCHS * STEPS - half)
