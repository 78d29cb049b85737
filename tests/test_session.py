"""A stage in the user's own loop."""

import pytest
import torch
from torch import nn

import featherweight as fw
from featherweight.schemes.sparse import Fraction, Sparse
from featherweight.schemes.uniform import Uniform


def model_and_data() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(64, 6)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), x, x[:, :3].argmax(1)


@pytest.mark.parametrize("learn", [fw.Learn.LATENT, fw.Learn.DIRECT])
def test_gradual_pruning(learn: fw.Learn, tmp_path) -> None:
    model, x, y = model_and_data()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stage = fw.everywhere("prune", Sparse(Fraction(0.75)), schedule=fw.Cubic(every=10), learn=learn)
    session = fw.begin(model, stage, steps=100)
    optimizer = torch.optim.Adam(session.student.parameters(), 1e-2)
    losses = []
    for _ in range(100):
        if session.before_step():
            optimizer = torch.optim.Adam(session.student.parameters(), 1e-2)
        loss = nn.functional.cross_entropy(session.student(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    student = session.finish()
    assert losses[-1] < 0.7 * losses[0]
    assert [int(student.weight(n).count_nonzero()) for n in ("0.weight", "2.weight")] == [24, 12]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    fw.save(student, tmp_path / "own.fwt")
    assert torch.equal(fw.load(tmp_path / "own.fwt", model)(x), student(x))


def test_finishing_early_is_refused() -> None:
    model, _, _ = model_and_data()
    stage = fw.everywhere("prune", Sparse(Fraction(0.5)), schedule=fw.Cubic(every=10), learn=fw.Learn.LATENT)
    session = fw.begin(model, stage, steps=100)
    session.before_step()
    with pytest.raises(fw.TaskError, match="last at step 70"):
        session.finish()


def test_one_shot_needs_no_later_projection() -> None:
    model, x, _ = model_and_data()
    session = fw.begin(model, fw.everywhere("quantize", Uniform(4), learn=fw.Learn.BOTH), steps=3)
    assert not session.before_step()
    student = session.finish()
    assert set(student.codes) == {"0.weight", "2.weight"}
