"""The essence, in a few seconds: a small model becomes a smaller file that loads, runs and trains."""

from pathlib import Path

import pytest
import torch
from torch import nn

import featherweight as fw
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.sparse import Fraction, Sparse

X = torch.randn(256, 16, generator=torch.Generator().manual_seed(0))
Y = X[:, :4].argmax(1)
LEARN = fw.Training(15, lr=5e-3)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))


def loss(outputs: torch.Tensor, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, batch[1])


def accuracy(model: nn.Module) -> float:
    return 100 * float((model(X).argmax(1) == Y).float().mean())


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        loss(model(X), (X, Y)).backward()
        optimizer.step()
    return model


def test_prune_share_learn_save_and_load(trained: nn.Module, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    recipe = fw.Recipe(
        "tiny",
        (
            fw.everywhere("prune", Sparse(Fraction(0.7)), learn=fw.Learn.LATENT, schedule=fw.Cubic(5), training=LEARN),
            fw.everywhere("share", Sparse(Fraction(0.7)).then(Codebook(8)), training=LEARN),
        ),
    )
    data = [(X[i : i + 64], Y[i : i + 64]) for i in range(0, 256, 64)]
    result = fw.compress(trained, recipe, example=X[:1], train=data, loss=loss)
    assert result.save(tmp_path / "tiny.fwt") == result.size == (tmp_path / "tiny.fwt").stat().st_size
    loaded = fw.load(tmp_path / "tiny.fwt", net())
    assert torch.equal(loaded(X), result.model(X))
    assert result.size < 0.2 * 4 * sum(p.numel() for p in trained.parameters())
    assert accuracy(loaded) > accuracy(trained) - 5
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    loss(result.model(X), (X, Y)).backward()


def test_a_size_and_nothing_else(trained: nn.Module) -> None:
    result = fw.compress(trained, budget=fw.Budget(size=1300), example=X[:1], calibration=[X])
    assert result.size <= 1300
    assert accuracy(result.model) > accuracy(trained) - 8


def test_a_damaged_file_is_refused(trained: nn.Module, tmp_path: Path) -> None:
    fw.compress(trained, fw.Recipe("tiny", (fw.everywhere("share", Codebook(4)),)), example=X[:1]).save(
        tmp_path / "a.fwt"
    )
    data = bytearray((tmp_path / "a.fwt").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.fwt").write_bytes(data)
    with pytest.raises(fw.FormatError, match="damaged"):
        fw.load(tmp_path / "a.fwt", net())
