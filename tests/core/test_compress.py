"""The main call on bare models: with recipes and with budgets, with all of the data, some of it and none."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import featherweight as fw
from featherweight.coding import entropy
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.sparse import Fraction, Sparse
from featherweight.search.budget import Effort, Trial

from .test_compressed import fingerprint

X = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
Y = X[:, :4].argmax(1)


class Net(nn.Module):
    """Takes its inputs by name; its outputs have a form of the user's choice."""

    def __init__(self, form: str = "logits") -> None:
        super().__init__()
        self.first = nn.Linear(12, 64)
        self.norm = nn.BatchNorm1d(64)
        self.head = nn.Linear(64, 4)
        self.form = form

    def forward(self, features: Tensor, *, scale: float = 1.0) -> Any:
        logits = self.head(self.norm(self.first(features)).relu()) * scale
        return {"logits": logits, "tuple": (logits, logits.argmax(1)), "dict": {"logits": logits}}.get(
            self.form, logits[:, 0]
        )

    def classify(self, features: Tensor) -> Tensor:
        return self(features).argmax(1)


def net(form: str = "logits") -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = Net(form).train()
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30 if form == "logits" else 0):
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
    model.zero_grad(set_to_none=True)
    return model


def right(model: nn.Module) -> float:
    """Looks like a user's: it knows the class of the model and what it offers."""
    assert isinstance(model, Net)
    return 100 * float((model.classify(X) == Y).float().mean())


RECIPE = fw.Recipe(
    "small", (fw.everywhere("prune", Sparse(Fraction(0.5)).then(Codebook(8)), training=fw.Training(2, 1e-3)),)
)
UNTRAINED = fw.Recipe("small", (fw.everywhere("prune", Sparse(Fraction(0.5)).then(Codebook(8))),))
DATA: dict[str, Any] = {
    "train": [(X[:32], Y[:32]), (X[32:], Y[32:])],
    "loss": lambda o, batch: F.cross_entropy(o, batch[1]),
}


def check(result: fw.Result, model: Net, path: Path, before: str) -> None:
    """The size is the file's, the file runs as the result does, and the model is what it was."""
    assert result.save(path) == result.size == os.path.getsize(path)
    assert sum(line.bits for line in result.lines()) / 8 <= result.size
    with torch.no_grad():
        expected = result.model.eval()(X)
        outputs = fw.load(path, Net(model.form))(X)
    assert type(result.model) is Net
    assert all(torch.equal(a, b) for a, b in zip(_tensors(outputs), _tensors(expected), strict=True))
    assert fingerprint(model) == before


def _tensors(outputs: Any) -> list[Tensor]:
    return (
        [outputs] if isinstance(outputs, Tensor) else list(outputs.values() if isinstance(outputs, dict) else outputs)
    )


@pytest.mark.parametrize(
    "example",
    [
        X[:1],
        (X[:1],),
        [X[:1]],
        {"features": X[:1]},
        {"features": X[:1], "scale": 2.0},
        fw.Example((X[:1],), {"scale": 1.0}),
    ],
    ids=["tensor", "tuple", "list", "mapping", "two arguments", "example"],
)
@pytest.mark.parametrize("budget", [None, fw.Budget(size=2000)], ids=["recipe", "budget"])
def test_examples(example: Any, budget: fw.Budget | None, tmp_path: Path) -> None:
    """Nothing but a model and an example: the weights alone decide."""
    model = net()
    before = fingerprint(model)
    result = fw.compress(model, None if budget else UNTRAINED, budget, example=example, effort=Effort(trials=3))
    assert result.claims is None
    assert result.operations().macs_dense == 12 * 64 + 64 * 4
    check(result, model, tmp_path / "model.fwt", before)


@pytest.mark.parametrize("form", ["logits", "tuple", "dict", "vector"])
@pytest.mark.parametrize(
    "calibration", [None, [X], [(X, Y)], [{"features": X}]], ids=["none", "inputs", "pairs", "names"]
)
def test_a_size_alone_without_labels(form: str, calibration: Any, tmp_path: Path) -> None:
    """The largest that fits is taken, and the output error decides: whatever the outputs' form."""
    model = net(form)
    before = fingerprint(model)
    told: list[Trial] = []
    result = fw.compress(
        model, budget=fw.Budget(size=1500), example=X[:1], calibration=calibration, effort=Effort(5), tell=told.append
    )
    assert result.size <= 1500
    assert 1 <= len(told) <= 5
    fitting = [trial for trial in told if trial.size <= 1500]
    assert min(trial.drop for trial in fitting) == pytest.approx(
        next(trial.drop for trial in told if trial.student is result.student)
    )
    check(result, model, tmp_path / "model.fwt", before)


@pytest.mark.parametrize("limit", [1.0, 20.0])
def test_a_drop_alone(limit: float, tmp_path: Path) -> None:
    """In per cent of the outputs' norm where nothing is said of quality; a looser limit gives a smaller file."""
    model = net()
    before = fingerprint(model)
    result = fw.compress(model, budget=fw.Budget(drop=limit), example=X[:1], calibration=[X])
    with torch.no_grad():
        error = (result.model.eval()(X) - model.eval()(X)).norm() / model(X).norm()
    model.train()
    assert 100 * float(error) <= limit
    check(result, model, tmp_path / "model.fwt", before)
    if limit > 1:
        tight = fw.compress(net(), budget=fw.Budget(drop=1.0), example=X[:1], calibration=[X])
        assert result.size < tight.size


def test_a_drop_in_the_users_own_measure(tmp_path: Path) -> None:
    model = net()
    before = fingerprint(model)
    result = fw.compress(model, budget=fw.Budget(drop=3.0), example=X[:1], calibration=[X], evaluate=right)
    assert right(model.eval()) - right(result.model.eval()) <= 3.0
    model.train()
    assert result.size < 2500
    check(result, model, tmp_path / "model.fwt", before)


@pytest.mark.parametrize("budget", [None, fw.Budget(size=1200), fw.Budget(drop=5.0), fw.Budget(1500, 10.0)], ids=str)
def test_with_training_data(budget: fw.Budget | None, tmp_path: Path) -> None:
    model = net()
    before = fingerprint(model)
    random = torch.get_rng_state()
    effort = Effort(trials=3, epochs=4)
    recipe = None if budget else RECIPE
    result = fw.compress(model, recipe, budget, example=X[:1], evaluate=right, effort=effort, **DATA)
    assert torch.equal(torch.get_rng_state(), random)
    again = fw.compress(model, recipe, budget, example=X[:1], evaluate=right, effort=effort, **DATA)
    assert again.encode() == result.encode()
    check(result, model, tmp_path / "model.fwt", before)


@pytest.mark.parametrize("form, loss", [
    ("tuple", lambda o, batch: F.cross_entropy(o[0], batch[1])),
    ("dict", lambda o, batch: F.cross_entropy(o["logits"], batch[1])),
    ("vector", lambda o, batch: (o - batch[1]).square().mean()),
])  # fmt: skip
def test_a_budget_with_training_of_outputs_of_any_form(form: str, loss: Callable[..., Tensor], tmp_path: Path) -> None:
    model = net(form)
    before = fingerprint(model)
    result = fw.compress(
        model, budget=fw.Budget(size=1500), example=X[:1], effort=Effort(5, 2), train=DATA["train"], loss=loss
    )
    check(result, model, tmp_path / "model.fwt", before)


def test_a_checkpoint_folder_and_the_recipes_text(tmp_path: Path) -> None:
    model = net()
    result = fw.compress(model, RECIPE, example=X[:1], checkpoint=tmp_path / "kept", **DATA)
    again = fw.compress(model, RECIPE, example=X[:1], checkpoint=tmp_path / "kept", **DATA)
    assert again.encode() == result.encode()
    result.save(tmp_path / "model.fwt", recipe=True)
    assert (tmp_path / "model.txt").read_text().startswith("recipe small: 1 stages\n1. prune: OneShot")


def test_lines_say_where_the_bytes_are() -> None:
    result = fw.compress(net(), UNTRAINED, example=X[:1])
    lines = {line.name: line for line in result.lines()}
    assert list(lines) == list(result.model.state_dict())
    head = lines["head.weight"]
    assert (head.shape, head.bits_before, head.nonzero) == ((4, 64), 4 * 64 * 32, 128)
    support = result.student.codes["head.weight"].support
    assert head.bits >= entropy(support.numpy(), 2)
    assert lines["norm.num_batches_tracked"].kind == "exact"


def test_a_student_without_codes_is_the_model(tmp_path: Path) -> None:
    """Saved whole, loaded whole, to the last bit."""
    model = net()
    fw.save(fw.Compressed(model), tmp_path / "model.fwt")
    assert torch.equal(fw.load(tmp_path / "model.fwt", Net())(X), model.eval()(X))


def test_verification(tmp_path: Path) -> None:
    model = net().eval()
    task = fw.Task(
        "mine",
        Net,
        lambda: model,
        lambda: fw.Example((X[:1],)),
        evaluation=lambda: [(X[:40], Y[:40]), (X[40:], Y[40:])],
    )
    result = fw.compress(task, UNTRAINED)
    claims = result.claims
    assert claims is not None and claims.samples == 64
    ours, theirs = (m(X).argmax(1) == Y for m in (result.model.eval(), model))
    assert (claims.total, claims.parent) == (float(ours.sum()), float(theirs.sum()))
    assert claims.lost == int((theirs & ~ours).sum())
    assert claims.won == int((ours & ~theirs).sum())
    result.save(tmp_path / "model.fwt")
    verified = fw.verify(tmp_path / "model.fwt", task)
    assert verified.ok and verified.claims == claims
    assert verified.bytes == result.size
    assert verified.measured.value == pytest.approx(100 * claims.total / 64)
    assert verified.measured.weight_bits == 3
    wrong = fw.Task("mine", Net, lambda: model, task.example, evaluation=lambda: [(X, Y.flip(0))])
    assert not fw.verify(tmp_path / "model.fwt", wrong).ok
