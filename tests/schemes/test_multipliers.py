"""The path from the loss alone to the constraint, on problems whose constrained optimum is known otherwise."""

from itertools import product

import pytest
import torch
from torch import Tensor

from featherweight.core.code import Code
from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN
from featherweight.core.scheme import Scheme
from featherweight.schemes.codebook import Codebook, Optimal
from featherweight.schemes.floats import Float
from featherweight.schemes.lowrank import LowRank, Rank
from featherweight.schemes.multipliers import AugmentedLagrangian, QuadraticPenalty, compressed, multipliers
from featherweight.schemes.plus import Plus
from featherweight.schemes.shrinkage import L1Ball, Shrunk
from featherweight.schemes.sparse import Fraction, L0Penalty, Sparse
from featherweight.schemes.uniform import Uniform


class Quadratic:
    """``L(w) = ½ (w − centre)ᵀ H (w − centre)``: the L step has a closed form."""

    def __init__(self, size: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        root = torch.randn(size, size, generator=generator, dtype=torch.float64)
        self.hessian = root @ root.T / size + 0.1 * torch.eye(size, dtype=torch.float64)
        self.centre = torch.randn(size, generator=generator, dtype=torch.float64)

    def __call__(self, w: Tensor) -> float:
        return float((w - self.centre) @ self.hessian @ (w - self.centre)) / 2

    def step(self, mu: float, towards: Tensor) -> Tensor:
        """``argmin_w L(w) + μ/2 ‖w − towards‖²``."""
        damped = self.hessian + mu * torch.eye(len(self.centre), dtype=torch.float64)
        return torch.linalg.solve(damped, self.hessian @ self.centre + mu * towards)


def path(loss: Quadratic, scheme: Scheme, last: float, rounds: int, growth: float) -> tuple[Tensor, Code]:
    """Learning-compression as a stage runs it: project, then an L step at every target; the weight and its code."""
    w = loss.centre
    code = scheme.at(growth ** (1 - rounds)).project_all({"w": w}, {"w": EUCLIDEAN})["w"]
    for k in range(rounds):
        target = growth ** (k + 1 - rounds)
        if k:
            code = scheme.at(target).advance({"w": w}, {"w": EUCLIDEAN}, {"w": code})["w"]
        w = loss.step(last * target, code.decode())
    return w, code


def best_on_the_ball(loss: Quadratic, radius: float) -> Tensor:
    """The constrained optimum by projected gradients."""
    scheme, w = Shrunk(L1Ball(radius)), loss.centre
    rate = 1 / float(torch.linalg.eigvalsh(loss.hessian)[-1])
    for _ in range(5000):
        w = scheme.project(w - rate * loss.hessian @ (w - loss.centre)).decode()
    return w


def test_the_method_of_multipliers_finds_the_constrained_optimum() -> None:
    """A convex constraint, ``μ`` fixed: the alternating direction method of multipliers."""
    loss = Quadratic(12)
    radius = 0.4 * float(loss.centre.abs().sum())
    expected = best_on_the_ball(loss, radius)
    w, code = path(loss, AugmentedLagrangian(Shrunk(L1Ball(radius))), 1.0, 400, 1.0)
    torch.testing.assert_close(w, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(compressed(code).decode(), expected, rtol=1e-6, atol=1e-6)
    u = multipliers(code)
    assert u is not None
    # Stationarity of the Lagrangian: ∇L = λ, and λ = −μ u at the end of the path.
    torch.testing.assert_close(loss.hessian @ (w - loss.centre), -u, rtol=1e-5, atol=1e-5)


def test_the_fixed_schedule_is_admm_step_by_step() -> None:
    """Boyd et al. 2011, equations 3.5 to 3.7, written out a second time."""
    loss, rho, scheme = Quadratic(12, seed=3), 0.7, Shrunk(L1Ball(2.0))
    x, z, u = loss.centre, scheme.project(loss.centre).decode(), torch.zeros(12, dtype=torch.float64)
    for rounds in range(1, 8):
        x = loss.step(rho, z - u)
        w, code = path(loss, AugmentedLagrangian(scheme), rho, rounds, 1.0)
        torch.testing.assert_close(w, x)
        z = scheme.project(x + u).decode()
        u = u + x - z


def test_multipliers_get_there_with_a_smaller_penalty() -> None:
    """At the same last ``μ`` the penalty alone leaves weights off their code, by about ``‖λ‖/μ``."""
    loss = Quadratic(12)
    radius = 0.4 * float(loss.centre.abs().sum())
    expected = best_on_the_ball(loss, radius)
    inner = Shrunk(L1Ball(radius))
    multiplied = AugmentedLagrangian(inner, growth=1.05)

    def error(scheme: Scheme, last: float) -> float:
        return float((path(loss, scheme, last, 160, 1.05)[0] - expected).norm())

    alone = [error(QuadraticPenalty(inner), last) for last in (0.5, 2.0, 8.0, 32.0)]
    assert alone == sorted(alone, reverse=True)
    assert error(multiplied, 0.5) < alone[3] / 5 and error(multiplied, 2.0) < alone[3] / 1000


@pytest.mark.parametrize("multiplied", [False, True])
def test_the_gap_closes_as_the_penalty_rises(multiplied: bool) -> None:
    loss = Quadratic(20, seed=2)
    inner = Codebook(2, Optimal())
    scheme = AugmentedLagrangian(inner, growth=1.3) if multiplied else QuadraticPenalty(inner)
    gaps = []
    for last in (0.1, 1.0, 10.0, 100.0):
        w, code = path(loss, scheme, last, 40, 1.3)
        gaps.append(float((w - compressed(code).decode()).norm()))
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < 0.1 * gaps[0]


def test_learned_supports_beat_direct_compression() -> None:
    """A quadratic in few dimensions, where the best support is found by trying all of them."""
    better = []
    for seed in range(8):
        loss = Quadratic(8, seed)
        w, code = path(loss, AugmentedLagrangian(Sparse(Fraction(0.5)), growth=1.1), 20.0, 80, 1.1)
        learned = refitted(loss, compressed(code).decode() != 0)
        direct = refitted(loss, Sparse(Fraction(0.5)).project(loss.centre).decode() != 0)
        best = min(
            refitted(loss, torch.tensor(support)) for support in product([False, True], repeat=8) if sum(support) == 4
        )
        assert best - 1e-9 <= learned <= direct + 1e-9
        better.append((direct - learned) / max(direct - best, 1e-9) if direct > best + 1e-9 else 1.0)
    assert sum(better) / len(better) > 0.6, "most of what can be gained is"


def refitted(loss: Quadratic, support: Tensor) -> float:
    """The least loss on a support."""
    h, kept = loss.hessian, support.nonzero().flatten()
    w = torch.zeros(len(support), dtype=torch.float64)
    w[kept] = torch.linalg.solve(h[kept][:, kept], (h @ loss.centre)[kept])
    return loss(w)


def test_multipliers_are_rescaled_by_the_growth() -> None:
    """``λ' = λ − μ (w − z)`` by hand, over two targets."""
    inner, growth = Uniform(1), 1.5
    scheme = AugmentedLagrangian(inner, growth=growth)
    first, second = torch.tensor([0.2, -0.9, 1.4]), torch.tensor([0.3, -1.0, 1.0])
    code = scheme.project(first)
    assert multipliers(code) is None and compressed(code) is code
    lam, mu = torch.zeros(3), growth**-2
    for w in (first, second):
        code = scheme.at(mu * growth).advance({"w": w}, {"w": EUCLIDEAN}, {"w": code})["w"]
        z = inner.project(w - lam / mu).decode()
        lam, mu = lam - mu * (w - z), mu * growth
        u = multipliers(code)
        assert u is not None
        torch.testing.assert_close(u, -lam / mu)
        torch.testing.assert_close(compressed(code).decode(), z)
        torch.testing.assert_close(code.decode(), z + lam / mu)


def test_priced_schemes_pay_less_as_the_penalty_rises() -> None:
    """A hard threshold of ``√(2α/μ)``: at a quarter of the last ``μ`` it is twice as high."""
    scheme = QuadraticPenalty(Sparse(L0Penalty(0.5)), priced=True)
    w = torch.tensor([0.9, 1.1, 1.9, 2.1])
    assert scheme.at(1.0).project(w).decode().tolist() == pytest.approx([0, 1.1, 1.9, 2.1])
    assert scheme.at(0.25).project(w).decode().tolist() == pytest.approx([0, 0, 0, 2.1])
    assert QuadraticPenalty(Sparse(Fraction(0.5))).at(0.25).inner == Sparse(Fraction(0.5)), "others stay whole"


def test_another_schedule_is_refused() -> None:
    with pytest.raises(SchemeError, match=r"Homotopy\(rounds, 1.5\)"):
        AugmentedLagrangian(Uniform(1), growth=1.5).at(0.5)
    with pytest.raises(SchemeError, match="falls"):
        AugmentedLagrangian(Uniform(1), growth=0.9)
    with pytest.raises(SchemeError, match="every tensor"):
        AugmentedLagrangian(Plus(Uniform(1), Float()))


def test_sums_and_half_precision_keep_their_multipliers_apart() -> None:
    for inner, dtype in ((Plus(LowRank(Rank(1)), Uniform(1)), torch.float32), (Uniform(2), torch.float16)):
        w = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
        scheme = AugmentedLagrangian(inner)
        code = scheme.project(w)
        assert multipliers(code) is None
        code = scheme.advance({"w": w}, {"w": EUCLIDEAN}, {"w": code})["w"]
        u = multipliers(code)
        assert u is not None and u.dtype == torch.float32 and code.decode().dtype == dtype
        torch.testing.assert_close(u, w.float() - inner.project(w).decode().float())
