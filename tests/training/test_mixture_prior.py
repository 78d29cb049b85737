"""The density of soft weight-sharing against torch's own, its gradients, and codes that learn as one mixture."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, Normal
from torch.distributions import Gamma as GammaDistribution

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN
from featherweight.core.stage import Learn, Tap
from featherweight.schemes.mixture import CHUNK, Mixture, MixtureCode
from featherweight.training.penalties import Gamma, MixturePrior, negative_log_density


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(components: int) -> tuple[Tensor, Tensor, Tensor]:
    return draw(components, seed=1), draw(components, seed=2) / 2 - 1, draw(components, seed=3).log_softmax(0)


def torchs(w: Tensor, means: Tensor, log_deviations: Tensor, log_mixing: Tensor) -> Tensor:
    density = MixtureSameFamily(Categorical(logits=log_mixing), Normal(means, log_deviations.exp()))
    return -density.log_prob(w).sum() - len(w) / 2 * torch.log(torch.tensor(2 * torch.pi, dtype=w.dtype))


@pytest.mark.parametrize("count", [1, 50, CHUNK + 7])
def test_the_density_is_torchs(count: int) -> None:
    w, numbers = draw(count), mixture(5)
    inputs = [t.clone().requires_grad_() for t in (w, *numbers)]
    again = [t.clone().requires_grad_() for t in (w, *numbers)]
    ours, theirs = negative_log_density(*inputs), torchs(*again)
    torch.testing.assert_close(ours, theirs)
    (3 * ours).backward()
    (3 * theirs).backward()
    # Categorical normalises its logits: its gradient lacks the share of the sum.
    torch.testing.assert_close([t.grad for t in inputs[:3]], [t.grad for t in again[:3]])


def test_gradients_by_finite_differences() -> None:
    inputs = [t.clone().requires_grad_() for t in (draw(9), *mixture(4))]
    assert torch.autograd.gradcheck(negative_log_density, inputs)


def test_far_from_every_mean_nothing_overflows() -> None:
    w = torch.tensor([1e3, -1e3, 0.0]).requires_grad_()
    loss = negative_log_density(w, torch.zeros(2), torch.tensor([-5.0, 0.0]), torch.tensor([0.5, 0.5]).log())
    loss.backward()
    assert bool(torch.isfinite(loss)) and w.grad is not None
    torch.testing.assert_close(w.grad, torch.tensor([1e3, -1e3, 0.0]))


def test_the_hyper_prior_is_a_gamma_density_of_the_precision() -> None:
    log_deviations = draw(6)
    both = [Gamma(7.0, 3.0)(each[None]) for each in log_deviations]
    theirs = -GammaDistribution(torch.tensor(7.0).double(), torch.tensor(3.0).double()).log_prob(
        (-2 * log_deviations).exp()
    )
    differences = torch.stack(both) - theirs
    torch.testing.assert_close(differences, differences[:1].expand(6))
    with pytest.raises(SchemeError, match="above 0"):
        Gamma(0.0, 1.0)


def learning() -> Compressed:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = Compressed(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)))
    names = ("0.weight", "1.weight")
    weights = {name: student.parameter(name).detach().clone() for name in names}
    scheme = Mixture(6)
    student.encode(scheme.project_all(weights, dict.fromkeys(names, EUCLIDEAN)), dict.fromkeys(names, scheme))
    student.learn(dict.fromkeys(names, Learn.MUTUAL), latents=weights)
    return student


def test_the_term_is_of_all_tensors_under_one_mixture() -> None:
    student = learning()
    fields, _ = student.learnable()
    assert len(fields) == 3, "means, deviations and mixing, once"
    tap = Tap(torch.zeros(()), None, None, student, lambda out, batch: torch.zeros(()))
    term = MixturePrior(1.0, Gamma(5.0, 2.0), Gamma(4.0, 1.0))
    loss = term(tap)
    code = student.codes["0.weight"]
    assert isinstance(code, MixtureCode)
    w = torch.cat([student.parameter(name).flatten() for name in ("0.weight", "1.weight")])
    deviations = code.log_deviations.decode()
    expected = torchs(w, code.centres(), deviations, code.log_mixing())
    expected = expected + Gamma(5.0, 2.0)(deviations[:1]) + Gamma(4.0, 1.0)(deviations[1:])
    torch.testing.assert_close(loss, expected)
    early = replace(tap, target=0.25)
    torch.testing.assert_close(replace(term, rising=True)(early), expected / 4)
    torch.testing.assert_close(term(early), expected)
    loss.backward()
    assert all(field.grad is not None and bool(field.grad.any()) for field in fields)
    student.settle()
    assert MixturePrior()(tap) == 0, "nothing learns any more"
