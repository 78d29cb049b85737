"""Mechanisms of learning-compression and of soft weight-sharing, seen at work."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.plan import plan_stage
from featherweight.core.scheme import Scheme
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Homotopy, Iterative, Learn, Objective, Recipe, Stage, Tap, Training
from featherweight.core.task import Example, Task, measure
from featherweight.papers import lc_framework, lc_pruning, lc_quantization, soft_weight_sharing
from featherweight.papers.lc_framework import learning_compression
from featherweight.run import project_sites, run
from featherweight.schemes.codebook import Codebook, CodebookCode, Optimal
from featherweight.schemes.logarithmic import Logarithmic
from featherweight.schemes.lowrank import LowRank, LowRankCode, Rank
from featherweight.schemes.mixture import Mixture, MixtureCode
from featherweight.schemes.multipliers import compressed
from featherweight.schemes.shrinkage import L1Ball, L1Penalty, Shrunk
from featherweight.schemes.sparse import Fraction, L0Penalty, Scope, Sparse, SparseCode
from featherweight.schemes.ternary import Ternary
from featherweight.schemes.uniform import Uniform
from featherweight.session import begin
from featherweight.tasks import find
from featherweight.tasks.data import Tensors
from featherweight.training import loop
from featherweight.training.objectives import TaskLoss
from featherweight.training.penalties import Gamma, MixturePrior

SIZES = (12, 24, 3)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(SIZES[0], SIZES[1]), nn.Tanh(), nn.Linear(SIZES[1], SIZES[2]))


def _data() -> tuple[Tensor, Tensor]:
    """Classes of another small network, of which a few inputs matter."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(512, SIZES[0], generator=generator)
    hidden = torch.tanh(2 * inputs[:, :4] @ torch.randn(4, 6, generator=generator))
    return inputs, (hidden @ torch.randn(6, SIZES[2], generator=generator)).argmax(1)


INPUTS, LABELS = _data()


def cross_entropy(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(outputs, batch[1])


def trained() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = net()
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        cross_entropy(made(INPUTS), (INPUTS, LABELS)).backward()
        optimizer.step()
    return made


MODEL = trained()


def task() -> Task:
    return Task(
        name="path",
        architecture=net,
        model=lambda: MODEL,
        example=lambda: Example((INPUTS[:1],)),
        train=lambda: Tensors(INPUTS, LABELS, batch_size=128, shuffle=True),
        loss=cross_entropy,
    )


def loss(model: nn.Module) -> float:
    with torch.no_grad():
        return float(cross_entropy(model(INPUTS), (INPUTS, LABELS)))


NAMES = ("0.weight", "2.weight")
EPOCHS, STEPS = 60, 4


class Watched:
    """A stage run step by step in a loop of our own: gaps and supports at the end of every L step."""

    def __init__(self, stage: Stage) -> None:
        session = begin(MODEL, stage, steps=EPOCHS * STEPS, task=task())
        student = session.student
        self.gaps: list[float] = []
        self.supports: list[Tensor] = []
        optimizer = torch.optim.Adam(student.parameters(), 1e-2)
        target = 1.0
        for step in range(EPOCHS * STEPS):
            if step in session.targets and step:
                self._look(student)
            session.before_step()
            target = session.targets.get(step, target)
            outputs = student(INPUTS)
            optimizer.zero_grad()
            assert stage.objective is not None
            stage.objective(Tap(outputs, (INPUTS, LABELS), None, student, cross_entropy, target)).backward()
            optimizer.step()
        self._look(student)
        self.student = session.finish()

    def _look(self, student: Compressed) -> None:
        codes = {name: compressed(student.codes[name]).decode().detach() for name in NAMES}
        apart = [(student.parameter(name).detach() - code).square().sum() for name, code in codes.items()]
        self.gaps.append(float(torch.stack(apart).sum().sqrt()))
        self.supports.append(torch.cat([(code != 0).flatten() for code in codes.values()]))


def shortened(recipe: Recipe, epochs: int) -> Recipe:
    stages = (
        replace(stage, training=stage.training and replace(stage.training, epochs=epochs)) for stage in recipe.stages
    )
    return replace(recipe, stages=tuple(stages))


def path(scheme: Scheme, mu: float, *, growth: float = 1.3, rounds: int = 20, multiplied: bool = True) -> Stage:
    return learning_compression(
        "path", {WEIGHTS: scheme}, Training(EPOCHS), mu=mu, rounds=rounds, growth=growth, multiplied=multiplied
    )


ONE_BIT = Codebook(2, Optimal())
ONE_IN_FIVE = Sparse(Fraction(0.8), scope=Scope.GLOBAL)


@pytest.mark.parametrize("multiplied", [False, True])
@pytest.mark.parametrize("scheme", [ONE_BIT, ONE_IN_FIVE], ids=["one bit", "one in five"])
def test_homotopy_closes_the_gap_between_weights_and_codes(scheme: Scheme, multiplied: bool) -> None:
    gaps = Watched(path(scheme, 2.0, multiplied=multiplied)).gaps
    assert gaps[-1] < 0.3 * gaps[0]
    assert gaps[-1] < gaps[len(gaps) // 2] < gaps[0]


def test_without_a_rise_the_gap_stays_open() -> None:
    gaps = Watched(path(ONE_IN_FIVE, 1e-4, growth=1.0, multiplied=False)).gaps
    assert gaps[-1] > 0.8 * gaps[0]


@pytest.mark.parametrize("scheme", [ONE_IN_FIVE, LowRank(Rank(2))], ids=["one in five", "rank 2"])
def test_multipliers_find_better_codes_at_the_same_penalty(scheme: Scheme) -> None:
    losses = {each: loss(Watched(path(scheme, 2.0, multiplied=each)).student) for each in (False, True)}
    assert losses[True] < 0.85 * losses[False]


@pytest.mark.parametrize("scheme", [ONE_BIT, ONE_IN_FIVE, LowRank(Rank(2))], ids=["one bit", "one in five", "rank 2"])
def test_learned_codes_lose_less_than_direct_compression(scheme: Scheme) -> None:
    """Projecting the trained weights is only the first step of the path."""
    direct, _ = run(MODEL, task(), Recipe("direct", (Stage("once", {WEIGHTS: scheme}),)))
    assert loss(Watched(path(scheme, 2.0)).student) < 0.75 * loss(direct)


def test_pruned_weights_come_back_until_the_penalty_is_large() -> None:
    supports = Watched(path(ONE_IN_FIVE, 2.0)).supports
    revived = [int((after & ~before).sum()) for before, after in zip(supports, supports[1:], strict=False)]
    assert max(revived) > 20, "of 72 that stay"
    assert sum(revived[-3:]) < max(revived) / 2, "at last supports nearly stand still"


def test_the_budget_is_shared_by_all_layers() -> None:
    """One threshold for all: shares are learned, not given."""
    student = Watched(path(ONE_IN_FIVE, 2.0)).student
    kept = [float((student.parameter(name) != 0).float().mean()) for name in NAMES]
    count = sum(int((student.parameter(name) != 0).sum()) for name in NAMES)
    assert count == 360 - round(0.8 * 360)
    assert abs(kept[0] - kept[1]) > 0.05


def test_admm_is_the_path_that_does_not_rise() -> None:
    """``growth`` 1 is the alternating direction method of multipliers, whichever schedule says so."""
    admm = path(ONE_IN_FIVE, 0.1, growth=1.0)
    assert admm.schedule.targets(EPOCHS * STEPS) == Iterative(20, fixed=True).targets(EPOCHS * STEPS)
    one, _ = run(MODEL, task(), Recipe("admm", (admm,)))
    two, _ = run(MODEL, task(), Recipe("admm", (replace(admm, schedule=Iterative(20, fixed=True)),)))
    assert all(torch.equal(one.parameter(name), two.parameter(name)) for name in NAMES)
    losses = {
        each: loss(Watched(path(ONE_IN_FIVE, 0.1, growth=1.0, multiplied=each)).student) for each in (False, True)
    }
    assert losses[True] < 0.8 * losses[False], "a fixed penalty needs its multipliers"


@pytest.mark.long
@pytest.mark.parametrize(
    "scheme",
    [Uniform(1), Ternary(), Logarithmic(3, scaled=True), Codebook(4, Optimal())],
    ids=["binary", "ternary", "powers of two", "four values"],
)
def test_quantization_with_any_set_of_values(scheme: Scheme) -> None:
    recipe = lc_quantization.recipe("digits", scheme=scheme)
    student, _ = run(MODEL, task(), shortened(recipe, 30))
    direct, _ = run(MODEL, task(), Recipe("direct", (Stage("once", {WEIGHTS: scheme}),)))
    assert loss(student) < loss(direct)
    assert all(type(student.codes[name]) is type(direct.codes[name]) for name in NAMES)


@pytest.mark.parametrize(
    "scheme, priced",
    [(Shrunk(L1Ball(20.0)), False), (Sparse(L0Penalty(0.02)), True), (Shrunk(L1Penalty(0.3)), True)],
    ids=["l1 ball", "l0 penalty", "l1 penalty"],
)
def test_pruning_with_any_c_step(scheme: Scheme, priced: bool) -> None:
    recipe = lc_pruning.recipe("digits", scheme=scheme, priced=priced)
    student, _ = run(MODEL, task(), shortened(recipe, 30))
    kept = [float((student.parameter(name) != 0).float().mean()) for name in NAMES]
    assert max(kept) < 0.9 and min(kept) > 0.01
    assert all(isinstance(student.codes[name], SparseCode) for name in NAMES)


@pytest.mark.long
def test_a_scheme_a_layer(digits_model: nn.Module) -> None:
    """Pruning, low rank and a codebook in one path."""
    recipe = lc_framework.recipe("digits")
    student, _ = run(digits_model, find("digits"), shortened(recipe, 4))
    kinds = {name: type(code) for name, code in student.codes.items() if name.endswith("weight")}
    assert [*kinds.values()] == [SparseCode] * 3 + [LowRankCode, CodebookCode]
    assert measure(student, find("digits").selection(), find("digits").quality) > 60  # type: ignore[misc]


class Soft:
    """Weights and a mixture that learn together, for ``tau`` a sample, which may rise; its size at each projection."""

    def __init__(self, tau: float, rising: bool) -> None:
        prior = MixturePrior(tau, Gamma(10.0, 0.02), Gamma(10.0, 0.02), rising=rising)
        stage = Stage(
            "mixture",
            {WEIGHTS: Mixture(13, 0.8)},
            schedule=Homotopy(10, 1.3) if rising else Iterative(10, fixed=True),
            learn=Learn.MUTUAL,
            training=Training(100, 1e-2),
            objective=Objective((TaskLoss(), prior)),
        )
        self.sizes: list[int] = []
        student = Compressed(MODEL)
        schemes = plan_stage(student.base, stage).sites

        def project(target: float) -> dict[str, Tensor]:
            sources = project_sites(student, task(), stage, schemes)
            self.sizes.append(_mixture(student).size)
            return sources

        loop.learn(student, task(), stage, project, student)
        self.before = loss(student)
        w = torch.cat([student.parameter(name).detach().flatten() for name in NAMES])
        student.settle()
        v = torch.cat([student.parameter(name).detach().flatten() for name in NAMES])
        self.after = loss(student)
        self.apart = float((w - v).norm() / w.norm())
        self.values = len(v.unique())
        self.zeros = float((v == 0).float().mean())


def _mixture(student: Compressed) -> MixtureCode:
    code = student.codes[NAMES[0]]
    assert isinstance(code, MixtureCode)
    return code


@pytest.mark.long
@pytest.mark.parametrize("tau, rising", [(2e-3, False), (4e-3, True)])
def test_weights_crowd_at_the_means_of_components_that_merge(tau: float, rising: bool) -> None:
    soft, faint = Soft(tau, rising), Soft(1e-5, rising)
    assert soft.sizes == sorted(soft.sizes, reverse=True) and soft.sizes[-1] <= 8 < soft.sizes[0]
    assert soft.values <= soft.sizes[-1] and soft.zeros > 0.5
    assert soft.apart < 0.05, "every weight is at its component's mean already"
    assert soft.after < 2.5 * soft.before
    assert faint.apart > 5 * soft.apart and faint.after > 5 * faint.before, "a faint prior does not gather them"


def test_soft_weight_sharing_ends_sparse_with_few_values(digits_model: nn.Module) -> None:
    recipe = soft_weight_sharing.recipe("digits")
    student, _ = run(digits_model, find("digits"), shortened(recipe, 2))
    for name, code in student.codes.items():
        if name.endswith("weight"):
            assert isinstance(code, SparseCode) and isinstance(code.values, CodebookCode) and code.values.size <= 16
