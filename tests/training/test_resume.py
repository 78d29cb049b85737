"""A killed run goes on to the same bytes; the same seed writes the same file; the user's random state is the user's."""

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from featherweight import file
from featherweight.activations.dropping import QuantizationDrop
from featherweight.activations.dynamic import DynamicRanges
from featherweight.activations.fixed_point import LimitedPrecisions
from featherweight.activations.gates import Gate
from featherweight.activations.gradients import GradientFunction
from featherweight.activations.learning_rules import (
    ClippingDecay,
    Clippings,
    MovingRanges,
    SignedUnits,
    WithErrors,
    WithGradients,
)
from featherweight.activations.logarithmic import LogActivations
from featherweight.activations.memberships import Disconnect, Memberships, SplitPenalty
from featherweight.activations.quantizers import Sign
from featherweight.activations.rules import Calibrated, LearnedSteps
from featherweight.checkpoint import FILE, TAPPED, _digest
from featherweight.core.compressed import Compressed
from featherweight.core.errors import DataError, FormatError
from featherweight.core.site import Sites
from featherweight.core.stage import (
    Condensing,
    Cubic,
    Decaying,
    Homotopy,
    Iterative,
    Learn,
    Objective,
    Portions,
    Recipe,
    Stage,
    TapRule,
    Training,
    adam,
    everywhere,
    sgd,
)
from featherweight.core.tap import Call, Function, Operator, Place, StoredFunction, TapSite
from featherweight.core.task import Example, Task
from featherweight.graph.groups import GroupLayers
from featherweight.metrics.diagonal import Curvature
from featherweight.run import Coverage, run
from featherweight.schemes.binary import Binary
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.fixed_point import FixedPoint
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.incremental import Incremental
from featherweight.schemes.joint import Joint
from featherweight.schemes.logarithmic import incremental
from featherweight.schemes.mixture import Mixture
from featherweight.schemes.multipliers import AugmentedLagrangian
from featherweight.schemes.shifted import Shifted
from featherweight.schemes.sparse import Dropping, Fraction, Gradient, Magnitude, Sparse, Surgery
from featherweight.schemes.uniform import PerChannel, Uniform
from featherweight.tasks.data import Tensors
from featherweight.training.loop import Progress
from featherweight.training.objectives import TaskLoss, distillation
from featherweight.training.optimizers import Clipped, OnGrid
from featherweight.training.penalties import Gamma, MixturePrior, Pull
from featherweight.training.states import QuantizedState

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(24, 6, generator=GENERATOR)
Y = X[:, :3].argmax(1)


class Net(nn.Module):
    """Batch norm and dropout: buffers to keep, random numbers to draw."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.drop(self.norm(self.first(x)).relu()))
        return logits


def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Net()


def task() -> Task:
    return Task(
        name="resume",
        architecture=Net,
        model=net,
        example=lambda: Example((X[:1],)),
        train=lambda: Tensors(X, Y, batch_size=8, shuffle=True),
        loss=lambda outputs, batch: nn.functional.cross_entropy(outputs, batch[1]),
    )


EPOCHS, STEPS = 4, 3


def stage(name: str, scheme: Any, learn: Learn, **settings: Any) -> Stage:
    return everywhere(
        name, scheme, learn=learn, training=Training(EPOCHS, 1e-2, **settings.pop("training", {})), **settings
    )


RECIPES = {
    "direct": Recipe("direct", (stage("share", Codebook(4), Learn.DIRECT, training={"code_lr": 0.5}),)),
    "latent": Recipe("latent", (stage("prune", Sparse(Fraction(0.6)), Learn.LATENT, schedule=Cubic(every=2)),)),
    "surgery": Recipe(
        "surgery",
        (stage("cut", Sparse(Surgery(0.5), gradient=Gradient.DENSE), Learn.LATENT, schedule=Decaying(0.2, end=0.9)),),
    ),
    "dropping": Recipe(
        "dropping",
        (stage("drop", Sparse(Dropping(0.6), gradient=Gradient.RESTING), Learn.LATENT, schedule=Iterative(6)),),
    ),
    "condensing": Recipe("c", (stage("drop", Sparse(Fraction(0.6)), Learn.LATENT, schedule=Condensing(2)),)),
    "memberships": Recipe(
        "split",
        (
            Stage(
                "learn",
                tap=Memberships(2, Sites(("first.weight",))),
                training=Training(EPOCHS, 1e-2, code_lr=10.0),
                objective=Objective((TaskLoss(), SplitPenalty())),
            ),
            Stage("disconnect", repairs=(Disconnect(),)),
            Stage("split", edit=GroupLayers(2), training=Training(EPOCHS, 1e-2, seed=1)),
        ),
    ),
    "late start": Recipe(
        "late", (stage("prune", Sparse(Fraction(0.6)), Learn.LATENT, schedule=Cubic(2, begin=0.4, end=0.8)),)
    ),
    "both": Recipe("both", (stage("quantize", Uniform(3, True, PerChannel()), Learn.BOTH, objective=distillation()),)),
    "pulled": Recipe("pulled", (stage("alternate", Codebook(3), Learn.PULLED, schedule=Iterative(4, fixed=True)),)),
    "free": Recipe("free", (stage("distort", Codebook(3), Learn.FREE, schedule=Iterative(4, fixed=True)),)),
    "mutual": Recipe("mutual", (stage("pull", Codebook(3), Learn.MUTUAL, schedule=Iterative(2, fixed=True)),)),
    "portions": Recipe("p", (stage("freeze", Incremental(incremental(4)), Learn.LATENT, schedule=Portions()),)),
    "portions of numbers": Recipe(
        "p", (stage("freeze", Incremental(Codebook(4)), Learn.DIRECT, schedule=Portions((0.4, 1.0))),)
    ),
    "drawn signs": Recipe(
        "b", (stage("binarize", Binary(0.5, True), Learn.LATENT, training={"optimizer": Clipped(adam, 0.5)}),)
    ),
    "fixed point": Recipe(
        "f", (stage("round", FixedPoint(2, 6), Learn.FREE, training={"optimizer": OnGrid(sgd, FixedPoint(2, 6))}),)
    ),
    "multipliers": Recipe(
        "multipliers",
        (
            stage(
                "constrain",
                AugmentedLagrangian(Codebook(3), growth=1.5),
                Learn.PULLED,
                schedule=Homotopy(4, 1.5),
                objective=Objective((TaskLoss(), Pull(1.0, rising=True))),
            ),
        ),
    ),
    "mixture": Recipe(
        "mixture",
        (
            stage(
                "share softly",
                Mixture(6, deviation=1.0),
                Learn.MUTUAL,
                schedule=Iterative(3, fixed=True),
                objective=Objective((TaskLoss(), MixturePrior(1e-3, Gamma(5.0, 0.01)))),
            ),
        ),
    ),
    "joint": Recipe("joint", (stage("share", Sparse(Magnitude()).then(Joint(Codebook(9))), Learn.DIRECT),)),
    "momentum": Recipe(
        "momentum", (stage("share", Uniform(4), Learn.LATENT, training={"optimizer": sgd, "clip": 1.0}),)
    ),
    "calibrated ranges": Recipe(
        "calibrated",
        (
            stage("quantize", Uniform(4), Learn.LATENT, tap=Calibrated(4, batches=2)),
            stage("again", Uniform(3), Learn.LATENT, tap=Calibrated(3, batches=2)),
        ),
    ),
    "learned steps": Recipe("steps", (stage("quantize", Uniform(3), Learn.BOTH, tap=LearnedSteps(bits=3)),)),
    "moving ranges": Recipe("moving", (stage("quantize", Uniform(4), Learn.LATENT, tap=MovingRanges(4, delay=4)),)),
    "clipping": Recipe(
        "clipping",
        (
            stage(
                "clip",
                Uniform(4),
                Learn.LATENT,
                tap=WithGradients(Clippings(("head",)), ("head",)),
                objective=Objective((TaskLoss(), ClippingDecay(1e-3))),
            ),
        ),
    ),
    "limited precision": Recipe(
        "limited", (stage("round", FixedPoint(4, 6), Learn.FREE, tap=LimitedPrecisions(grid=FixedPoint(5, 6))),)
    ),
    "integers": Recipe(
        "integers", (stage("learn", Shifted(2), Learn.LATENT, tap=WithErrors(SignedUnits(wider={"first": 4.0}))),)
    ),
    "moments in eight bits": Recipe(
        "moments",
        (stage("share", Uniform(4), Learn.LATENT, training={"optimizer": QuantizedState(adam, smallest=8, block=7)}),),
    ),
    "logarithmic": Recipe("log", (stage("powers", Uniform(4), Learn.LATENT, tap=LogActivations(gradients=5)),)),
    "dynamic ranges": Recipe("dynamic", (stage("quantize", Uniform(4), Learn.LATENT, tap=DynamicRanges()),)),
    "several stages": Recipe(
        "several",
        (
            stage("prune", Sparse(Fraction(0.5)), Learn.LATENT, schedule=Iterative(3), metric=Curvature(batches=2)),
            stage("share", Sparse(Magnitude()).then(Codebook(4)), Learn.DIRECT),
            Stage("all", training=Training(EPOCHS, 1e-3, seed=5)),
            Stage("side", {"*.bias": Float(Width.FLOAT16)}),
        ),
    ),
}


class Killed(Exception):
    pass


def killer(at: int) -> Callable[[Progress], None]:
    """Raises after so many steps, counted over all stages."""
    count = 0

    def watch(progress: Progress) -> None:
        nonlocal count
        count += 1
        if count == at:
            raise Killed

    return watch


def result(recipe: Recipe, folder: Path | None = None, watch: Any = None) -> tuple[bytes, tuple[Coverage, ...]]:
    student, coverage = run(net(), task(), recipe, folder=folder, watch=watch)
    return file.encode(student), coverage


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_seed_writes_the_same_bytes(name: str) -> None:
    torch.manual_seed(3)
    first, _ = result(RECIPES[name])
    torch.manual_seed(4)
    assert result(RECIPES[name])[0] == first


SOME = [pytest.param(name, marks=pytest.mark.long if k % 3 else ()) for k, name in enumerate(RECIPES)]
"""Every third in every run."""


@pytest.mark.parametrize("name", SOME)
def test_a_killed_run_goes_on_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    """Killed once at every few steps, in a folder each; then killed again and again in one folder."""
    recipe = RECIPES[name]
    whole, _ = result(recipe)
    steps = EPOCHS * STEPS * sum(stage.training is not None for stage in recipe.stages)
    for at in range(1, steps + 1, 4 if len(recipe.stages) == 1 else 5):
        folder = tmp_path / str(at)
        with pytest.raises(Killed):
            result(recipe, folder, killer(at))
        assert result(recipe, folder)[0] == whole, at
    for _ in range(steps):
        try:
            resumed, _ = result(recipe, tmp_path / "again", killer(STEPS + 1))
        except Killed:
            continue
        assert resumed == whole
        return
    pytest.fail("the run never came to its end")


@dataclass(frozen=True)
class Asked(TapRule):
    """Another rule; each time that it is asked is noted."""

    rule: TapRule
    times: list[str] = field(default_factory=list, repr=False)

    def taps(self, student: Compressed, task: Task) -> list[TapSite]:
        self.times.append("asked")
        return list(self.rule.taps(student, task))


def test_what_was_tapped_is_kept_and_not_decided_again(tmp_path: Path) -> None:
    rule = Asked(Calibrated(4, batches=2))
    recipe = Recipe("kept", (stage("quantize", Uniform(4), Learn.LATENT, tap=rule),))
    with pytest.raises(Killed):
        result(recipe, tmp_path, killer(2 * STEPS + 1))
    assert len(rule.times) == 1
    result(recipe, tmp_path)
    assert len(rule.times) == 1
    whole, _ = result(recipe)
    assert len(rule.times) == 2 and result(recipe, tmp_path)[0] == whole


def test_every_function_has_a_place_in_a_checkpoint() -> None:
    def below(base: type) -> set[type]:
        direct = {each for each in base.__subclasses__() if each.__module__.startswith("featherweight.")}
        return direct.union(*(below(each) for each in direct))

    within_one_projection = {QuantizationDrop}  # gone when a block is reconstructed
    bases = {StoredFunction, Gate, GradientFunction}
    assert set(TAPPED.values()) == below(Function) - bases - within_one_projection


@pytest.mark.parametrize("name", sorted(TAPPED.keys() - file.FUNCTIONS.keys()))
@pytest.mark.parametrize("record", [[], ["8"], [8, 8, 8, 8], [None], [[8, 8], [8, 8], "up"]])
def test_malformed_settings_of_what_only_learns(name: str, record: list) -> None:
    with pytest.raises(FormatError):
        TAPPED[name].from_json(record)


class Own(Sign):
    """A user's own function."""


@dataclass(frozen=True)
class Owns(TapRule):
    def taps(self, student: Compressed, task: Task) -> list[TapSite]:
        return [TapSite(Place(Call("head", Operator.LINEAR)), Own())]


def test_a_function_that_no_checkpoint_holds_is_refused(tmp_path: Path) -> None:
    recipe = Recipe("own", (stage("quantize", Uniform(4), Learn.LATENT, tap=Owns()),))
    with pytest.raises(DataError, match="head: linear, operand 1 is sent through Own, which no checkpoint holds"):
        result(recipe, tmp_path)


def test_a_checkpoint_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        result(RECIPES["both"], tmp_path, killer(STEPS + 1))
    with safe_open(tmp_path / FILE, "pt") as opened:
        record = json.loads(opened.metadata()["run"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    del record["taps"]
    text = json.dumps(record)
    save_file(tensors, tmp_path / FILE, {"run": text, "digest": _digest(text, tensors)})
    with pytest.raises(DataError, match="earlier version, which kept no taps; delete it"):
        result(RECIPES["both"], tmp_path)


def test_a_finished_run_does_nothing_again(tmp_path: Path) -> None:
    whole, _ = result(RECIPES["several stages"], tmp_path)
    again, coverage = result(RECIPES["several stages"], tmp_path, killer(1))
    assert again == whole
    assert all(stage.touched == {} for stage in coverage)


ANOTHER_PROCESS = """
import hashlib, pathlib, sys, torch, test_resume
torch.set_num_threads(1)
whole, _ = test_resume.result(test_resume.RECIPES["momentum"], pathlib.Path(sys.argv[1]))
print(hashlib.sha256(whole).hexdigest())
"""


def test_another_process_goes_on(tmp_path: Path) -> None:
    """Functions among a recipe's settings lie at another address there."""
    with pytest.raises(Killed):
        result(RECIPES["momentum"], tmp_path, killer(2 * STEPS + 1))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", ANOTHER_PROCESS, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.strip() == hashlib.sha256(result(RECIPES["momentum"])[0]).hexdigest()


@pytest.mark.parametrize("name", ["direct", "latent", "momentum"])
def test_the_checkpoint_of_another_run_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        result(RECIPES["both"], tmp_path, killer(STEPS + 1))
    with pytest.raises(DataError, match="belongs to another model or recipe; delete it, or choose another folder"):
        result(RECIPES[name], tmp_path)
    other = net()
    with torch.no_grad():
        other.norm.running_mean += 1
    with pytest.raises(DataError, match="another model"):
        run(other, task(), RECIPES["both"], folder=tmp_path)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    """Truncated anywhere, or with any byte changed: in the record, in the names, in the numbers."""
    recipe = RECIPES["both"]
    with pytest.raises(Killed):
        result(recipe, tmp_path, killer(STEPS + 1))
    path = tmp_path / FILE
    kept = path.read_bytes()
    damaged = [kept[:length] for length in range(0, len(kept), 97)]
    for place in range(0, len(kept), 61):
        changed = bytearray(kept)
        changed[place] ^= 0x15
        damaged.append(bytes(changed))
    for attack in damaged:
        path.write_bytes(attack)
        with pytest.raises(DataError, match="delete it"):
            result(recipe, tmp_path)


def test_a_checkpoint_holds_no_pickle(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        result(RECIPES["both"], tmp_path, killer(STEPS + 1))
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    with safe_open(tmp_path / FILE, "pt") as opened:
        assert json.loads(opened.metadata()["run"])["position"] == [0, 1]


def test_the_users_random_state_stays(tmp_path: Path) -> None:
    torch.manual_seed(11)
    states = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    result(RECIPES["several stages"], tmp_path)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), repr(np.random.get_state())) == states[1:]


def test_seeds_differ() -> None:
    first = Recipe("seed", (stage("share", Codebook(4), Learn.DIRECT),))
    second = Recipe("seed", (stage("share", Codebook(4), Learn.DIRECT, training={"seed": 1}),))
    assert result(first)[0] != result(second)[0]


def test_a_stage_that_is_resumed_may_find_nothing_left_to_change(tmp_path: Path) -> None:
    """Levels that no longer move in the last epoch are no error, as they are none without the interruption."""
    recipe = Recipe("still", (everywhere("sign", Uniform(1), learn=Learn.LATENT, training=Training(3, 1e-9)),))
    whole, _ = result(recipe)
    with pytest.raises(Killed):
        result(recipe, tmp_path, killer(2 * STEPS + 1))
    assert result(recipe, tmp_path)[0] == whole
