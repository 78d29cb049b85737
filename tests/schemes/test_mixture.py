"""Mixtures: who is responsible for a weight, what a mixture starts from, and components that become one."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN
from featherweight.schemes.floats import Floats, Width
from featherweight.schemes.mixture import Mixture, MixtureCode, divergence, merged


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def known(means: list[float], deviations: list[float], zero: int = 900_000) -> MixtureCode:
    numbers = [torch.tensor(means), torch.tensor(deviations).log(), torch.zeros(len(means))]
    parts = [Floats(tuple(t.shape), t.dtype, t, Width.FLOAT32) for t in numbers]
    return MixtureCode((0,), torch.float32, torch.zeros(0, dtype=torch.int32), *parts, zero)


def test_every_entry_goes_to_its_most_responsible_component() -> None:
    code = known([-1.0, 0.5, 2.0], [0.1, 0.3, 0.2, 1.0])
    w = 1.5 * draw(200)
    ours = Mixture().project(w, warm=code)
    mixing = torch.tensor([0.9, *[0.1 / 3] * 3])
    densities = Normal(torch.tensor([0.0, -1.0, 0.5, 2.0]), torch.tensor([0.1, 0.3, 0.2, 1.0])).log_prob(w[:, None])
    assert torch.equal(ours.assigned.long(), (densities + mixing.log()).argmax(1))
    assert torch.equal(ours.decode(), torch.tensor([0.0, -1.0, 0.5, 2.0])[ours.assigned.long()])
    torch.testing.assert_close(code.log_mixing().exp(), mixing)


def test_a_large_share_at_zero_takes_more_than_the_nearest() -> None:
    w = torch.tensor([0.05, 0.3, 0.84, 0.88])
    code = known([-0.5, 0.5], [0.2, 0.2, 0.2], zero=999_000)
    assert Mixture().project(w, warm=code).assigned.tolist() == [0, 0, 0, 2]


def test_a_mixture_starts_evenly_and_is_one_for_all_tensors() -> None:
    weights = {"a": draw(4, 5), "b": 3 * draw(6, seed=1)}
    codes = Mixture(5).project_all(weights, dict.fromkeys(weights, EUCLIDEAN))
    first, second = codes.values()
    assert isinstance(first, MixtureCode) and isinstance(second, MixtureCode)
    assert all(first.tensors()[path] is second.tensors()[path] for path in first.tensors() if "values" in path)
    reach = max(float(w.abs().max()) for w in weights.values())
    torch.testing.assert_close(first.centres(), torch.tensor([0, -reach, -reach / 3, reach / 3, reach]))
    limited = Mixture(5, reach=1.0).project(weights["b"])
    assert float(limited.centres().max()) == 1.0


def test_divergence_is_torchs() -> None:
    one, two = (0.3, 0.5), (-0.4, 1.7)
    a, b = (Normal(mean, variance**0.5) for mean, variance in map(torch.tensor, (one, two)))
    assert divergence(one, two) == pytest.approx(float(kl_divergence(a, b) + kl_divergence(b, a)), rel=1e-5)


def test_components_that_overlap_become_one() -> None:
    code = known([-1.0, 0.9, 1.0, 0.01], [0.1, 0.1, 0.2, 0.2, 0.12])
    made = merged(code, 1.0)
    torch.testing.assert_close(made.centres(), torch.tensor([0.0, -1.0, 0.95]))
    # The mass, mean and variance of two components are those of the mixture of the two.
    torch.testing.assert_close(made.log_deviations.decode().exp()[2], torch.tensor(0.2**2 + 0.05**2).sqrt())
    mixing = made.log_mixing().exp()
    torch.testing.assert_close(mixing[2] / mixing[1], torch.tensor(2.0))
    assert merged(code, 0.0) is code
    assert merged(code, 1e9).size == 2


def test_an_advance_merges_and_keeps_one_mixture() -> None:
    scheme = Mixture(9, deviation=2.0, overlap=0.5)
    weights = {"a": draw(4, 5), "b": draw(6, seed=1)}
    codes = scheme.project_all(weights, dict.fromkeys(weights, EUCLIDEAN))
    after = scheme.advance(weights, dict.fromkeys(weights, EUCLIDEAN), codes)
    first, second = after.values()
    assert isinstance(first, MixtureCode) and isinstance(second, MixtureCode)
    assert first.size < 9 and first.means.decode() is second.means.decode()


def test_what_is_refused() -> None:
    for wrong in ({"size": 1}, {"size": 300}, {"zero": 1.0}, {"zero": 0.0}, {"deviation": 0.0}, {"reach": -1.0}):
        with pytest.raises(SchemeError):
            Mixture(**wrong)  # type: ignore[arg-type]
    with pytest.raises(SchemeError, match="warm start"):
        Mixture().project(draw(3), warm=Floats.holding(draw(3), Width.FLOAT32))
