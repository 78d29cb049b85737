"""The device law: what is made on the way lies where the tensors lie, never on the default device.

The default device is ``meta`` here and all tensors are on the CPU: a tensor made without ``device=`` has no values, and
whatever mixes it in fails or has none either.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from featherweight import file
from featherweight.core.compressed import Compressed
from featherweight.core.metric import EUCLIDEAN, Diagonal
from featherweight.core.rate import Rate, bits_of
from featherweight.core.stage import Iterative, Learn, Recipe, Training, everywhere, sgd
from featherweight.metrics.diagonal import Curvature, Fisher
from featherweight.run import run
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.sparse import Fraction, Sparse
from featherweight.schemes.uniform import Uniform
from featherweight.training.objectives import distillation

from .codes import reread
from .table import FAMILIES, TABLE, WEIGHTS
from .test_pairs import INPUTS, net, task

METRICS = (EUCLIDEAN, Diagonal(WEIGHTS["heavy-tailed"].abs()))


@pytest.fixture
def meta() -> Iterator[None]:
    with torch.device("meta"):
        yield


@pytest.mark.parametrize("name", TABLE)
def test_codes(name: str, meta: None) -> None:
    entry, w = TABLE[name], WEIGHTS["heavy-tailed"]
    for metric in METRICS[: 1 + entry.diagonal]:
        code = entry.scheme.project(w, metric)
        warm = entry.scheme.project(w, metric, warm=code)
        together = entry.scheme.project_all({"w": w}, {"w": metric})["w"]
        for each in (code, warm, together, reread(code, list(code.streams()))):
            assert all(tensor.device.type == "cpu" for tensor in each.tensors().values())
            assert each.decode().device.type == "cpu"
        assert all(stream.values.device.type == "cpu" for stream in code.streams())
        latent = w.clone().requires_grad_()
        entry.scheme.through(latent, code).sum().backward()
        assert latent.grad is not None and latent.grad.device.type == "cpu"


@pytest.mark.parametrize("scheme", [Uniform(3), Uniform(3, False), Codebook(6)], ids=str)
def test_rates(scheme: Uniform | Codebook, meta: None) -> None:
    w = WEIGHTS["heavy-tailed"]
    code = scheme.project(w)
    stream = next(stream for stream in code.streams() if stream.values.shape == w.shape)
    rated = scheme.project(w, warm=code, rate=Rate(0.1, bits_of(stream.values, stream.alphabet)))
    assert rated.decode().device.type == "cpu"


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("learn", Learn)
def test_a_run(name: str, learn: Learn, tmp_path: Path) -> None:
    """Metrics, projections, learning, checkpoints and files."""
    model, given = net(), task()
    architecture = net()
    metric = Fisher() if TABLE[name].diagonal else everywhere("", TABLE[name].scheme).metric
    training = Training(2, 1e-2, sgd, warmup=0.2, clip=1.0)
    stage = everywhere(
        "one", TABLE[name].scheme, metric=metric, training=training, learn=learn, objective=distillation(),
        schedule=Iterative(2, fixed=True),
    )  # fmt: skip
    with torch.device("meta"):
        student, _ = run(model, given, Recipe("meta", (stage,)), folder=tmp_path)
        loaded, _ = file.load(file.encode(student), architecture)
        outputs = loaded(INPUTS)
    assert torch.equal(outputs, student(INPUTS))
    assert all(tensor.device.type == "cpu" for tensor in student.base.state_dict().values())


def test_metrics(meta: None) -> None:
    with torch.device("cpu"):
        model, given = net(), task()
        student = Compressed(model)
    for rule in (Fisher(), Curvature()):
        measured = rule.measure(student, ["conv.weight", "head.weight"], given)
        for name, metric in measured.items():
            weights = metric.weights(student.parameter(name))
            assert weights is not None and weights.device.type == "cpu"


def test_gradual_pruning(tmp_path: Path) -> None:
    stage = everywhere(
        "prune", Sparse(Fraction(0.8)), learn=Learn.LATENT, training=Training(2, 1e-2, sgd), schedule=Iterative(4)
    )
    model, given = net(), task()
    with torch.device("meta"):
        student, _ = run(model, given, Recipe("meta", (stage,)))
    assert int((student.weight("head.weight") == 0).sum()) == round(0.8 * 256)
