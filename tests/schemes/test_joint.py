"""One codebook for many tensors: in the projection, while it learns, and in the file."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.core.code import Code
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Diagonal
from featherweight.core.scheme import Scheme
from featherweight.core.shared import leaves
from featherweight.core.stage import Learn, Recipe, Training, everywhere, sgd
from featherweight.core.task import Example, Task
from featherweight.result import lines
from featherweight.run import run
from featherweight.schemes.codebook import Codebook, CodebookCode, Optimal
from featherweight.schemes.entropy import EntropyConstrained, MeanBits, Multiplier
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.joint import Joint
from featherweight.schemes.sparse import Fraction, Magnitude, Scope, Sparse, SparseCode


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


WEIGHTS = {"a": draw(0, 5, 8), "b": 0.3 * draw(1, 60), "c": 3 * draw(2, 2, 3, 4)}
METRICS = {"a": EUCLIDEAN, "b": Diagonal(100 * draw(3, 60).square()), "c": Diagonal(0.01 * draw(4, 2, 3, 4).square())}
TOGETHER = torch.cat([w.flatten() for w in WEIGHTS.values()])
DIAGONAL = torch.cat([torch.ones(40), *(METRICS[name].diagonal.flatten() for name in ("b", "c"))])


def numbers(code: Code) -> Tensor:
    (_, leaf, _), *_ = leaves(code)
    return leaf.tensors()["values"]


def same(codes: dict[str, Code]) -> bool:
    first, *others = (numbers(code) for code in codes.values())
    return all(other is first for other in others)


@pytest.mark.parametrize("scheme", [Codebook(7), Codebook(5, Optimal())], ids=str)
def test_tensors_are_projected_as_one(scheme: Codebook) -> None:
    codes = Joint(scheme).project_all(WEIGHTS, METRICS)
    alone = scheme.project(TOGETHER, Diagonal(DIAGONAL))
    assert same(codes) and [code.shape for code in codes.values()] == [w.shape for w in WEIGHTS.values()]
    assert torch.equal(torch.cat([code.decode().flatten() for code in codes.values()]), alone.decode())
    plain = Joint(scheme).project_all(WEIGHTS, dict.fromkeys(WEIGHTS, EUCLIDEAN))
    assert torch.equal(
        torch.cat([code.decode().flatten() for code in plain.values()]), scheme.project(TOGETHER).decode()
    )
    assert not torch.equal(plain["b"].decode(), codes["b"].decode())


@pytest.mark.parametrize("price", [0.02, 0.2])
def test_entropy_constrained_tensors_have_a_table_each(price: float) -> None:
    """Their error and bits are no more than those of one table for all; no tensor's symbols would be chosen again."""
    scheme = EntropyConstrained(Multiplier(price))
    codes = Joint(scheme).project_all(WEIGHTS, METRICS)
    alone = scheme.project(TOGETHER, Diagonal(DIAGONAL))

    def cost(name: str, decoded: Tensor, bits: float) -> float:
        return float(METRICS[name].distance(WEIGHTS[name], decoded.reshape(WEIGHTS[name].shape))) + price * bits

    def entropy(indices: Tensor) -> float:
        shares = indices.unique(return_counts=True)[1].double() / indices.numel()
        return float(-(shares * shares.log2()).sum()) * indices.numel()

    pieces = zip(codes, alone.decode().split([40, 60, 24]), alone.indices.split([40, 60, 24]), strict=True)
    each = {name: (decoded, indices) for name, decoded, indices in pieces}
    for name, code in codes.items():
        assert isinstance(code, CodebookCode)
        assert (
            cost(name, code.decode(), entropy(code.indices)) <= cost(name, each[name][0], entropy(each[name][1])) + 1e-6
        )
        warm = scheme.project(WEIGHTS[name], METRICS[name], warm=code)
        assert torch.equal(warm.indices, code.indices)
    used = torch.cat([code.indices.flatten() for code in codes.values()]).unique()
    assert same(codes) and len(used) == len(numbers(codes["a"]))


def test_a_mean_of_bits_is_that_of_all_tensors() -> None:
    codes = Joint(EntropyConstrained(MeanBits(1.5))).project_all(WEIGHTS, METRICS)
    total = 0.0
    for code in codes.values():
        shares = code.tensors()["indices"].unique(return_counts=True)[1].double() / torch.Size(code.shape).numel()
        total += float(-(shares * shares.log2()).sum()) * torch.Size(code.shape).numel()
    assert total <= 1.5 * len(TOGETHER)


def test_survivors_of_one_support_share_one_codebook() -> None:
    scheme = Sparse(Fraction(0.7), scope=Scope.GLOBAL).then(Joint(Codebook(6, Optimal())))
    codes = scheme.project_all(WEIGHTS, dict.fromkeys(WEIGHTS, EUCLIDEAN))
    supports = Sparse(Fraction(0.7), scope=Scope.GLOBAL).project_all(WEIGHTS, dict.fromkeys(WEIGHTS, EUCLIDEAN))
    survivors = []
    for name, code in codes.items():
        assert isinstance(code, SparseCode) and torch.equal(code.support, supports[name].tensors()["support"])
        survivors.append(WEIGHTS[name][code.support])
    assert same(codes)
    expected = Codebook(6, Optimal()).project(torch.cat(survivors)).decode()
    assert torch.equal(torch.cat([code.values.decode() for code in codes.values()]), expected)


def test_what_a_shared_centroid_makes_zero_leaves_every_support() -> None:
    weights = {"a": torch.tensor([1e-9, 2.0, -2.0]), "b": torch.tensor([-1e-9, 2.0, 0.0, 5.0, 5.0])}
    codes = Sparse(Magnitude()).then(Joint(Codebook(4))).project_all(weights, dict.fromkeys(weights, EUCLIDEAN))
    supports = [code.tensors()["support"].tolist() for code in codes.values()]
    assert supports == [[False, True, True], [False, True, False, True, True]] and same(codes)


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 3))


X = draw(5, 64, 6)
Y = X[:, :3].argmax(1)
TASK = Task("joint", net, net, lambda: Example((X[:1],)), train=lambda: [(X[:32], Y[:32]), (X[32:], Y[32:])],
            loss=lambda outputs, batch: nn.functional.cross_entropy(outputs, batch[1]))  # fmt: skip
JOINT: list[Scheme] = [
    Joint(Codebook(8)),
    Joint(EntropyConstrained(Multiplier(0.003))),
    Sparse(Fraction(0.5), scope=Scope.GLOBAL).then(Joint(Codebook(8))),
]


@pytest.mark.parametrize("scheme", JOINT, ids=["codebook", "entropy", "sparse"])
@pytest.mark.parametrize("learn", [Learn.DIRECT, Learn.LATENT, Learn.BOTH])
def test_a_joint_codebook_learns_is_written_once_and_loaded_as_one(scheme: Scheme, learn: Learn) -> None:
    stage = everywhere("share", scheme, training=Training(3, 1e-2, sgd), learn=learn)
    student, _ = run(net(), TASK, Recipe("joint", (stage,)))
    codes = dict(student.codes)
    assert same(codes)
    if learn is Learn.DIRECT:
        still, _ = run(net(), TASK, Recipe("joint", (replace(stage, training=None),)))
        assert not torch.equal(numbers(codes["0.weight"]), numbers(still.codes["0.weight"]))
    data = file.encode(student)
    loaded, contents = file.load(data, net())
    assert same({name: loaded.codes[name] for name in codes}) and file.encode(loaded) == data
    assert all(torch.equal(loaded.codes[name].decode(), code.decode()) for name, code in codes.items())
    apart = Compressed(net())
    apart.encode({name: code.map(torch.clone) for name, code in codes.items()}, dict.fromkeys(codes, scheme))
    for name in ("0.bias", "2.bias", "4.bias"):
        apart.parameter(name).data.copy_(student.parameter(name))
    assert len(file.encode(apart)) - len(data) >= 2 * 2 * len(numbers(codes["0.weight"])) - 8
    assert sum(line.bits for line in lines(contents.codes)) / 8 <= len(data)


def test_the_first_tensor_may_be_smaller_than_the_codebook() -> None:
    """The codebook stands in the code of another."""
    student = Compressed(nn.ParameterDict({"few": draw(0, 3), "many": draw(1, 40)}))
    weights = {name: p.detach() for name, p in student.base.named_parameters()}
    codes = Joint(Codebook(20)).project_all(weights, dict.fromkeys(weights, EUCLIDEAN))
    student.encode(codes, dict.fromkeys(codes, Joint(Codebook(20))))
    loaded, _ = file.load(file.encode(student), nn.ParameterDict({"few": torch.zeros(3), "many": torch.zeros(40)}))
    assert same(dict(loaded.codes))
    assert all(torch.equal(loaded.codes[name].decode(), code.decode()) for name, code in codes.items())


def test_what_cannot_be_shared() -> None:
    with pytest.raises(SchemeError, match="Sparse.*Joint"):
        Joint(Sparse(Fraction(0.5))).project_all(WEIGHTS, METRICS)
    with pytest.raises(SchemeError, match="torch.float32, torch.float64 cannot share"):
        Joint(Codebook(3)).project_all({"a": draw(0, 9), "b": draw(1, 9).double()}, METRICS)
    with pytest.raises(SchemeError, match="larger than each tensor"):
        Joint(Codebook(12)).project_all({"a": draw(0, 4), "b": draw(1, 6)}, dict.fromkeys("ab", EUCLIDEAN))
    with pytest.raises(SchemeError, match="b: 1 of 2 entries are not finite"):
        Joint(Codebook(8)).project_all({"a": draw(0, 4), "b": torch.tensor([0, torch.inf])}, METRICS)
    with pytest.raises(SchemeError, match="no gradual form"):
        Joint(Codebook(8)).at(0.5)
    assert Joint(Codebook(8)).project_all({}, {}) == {} and Joint(Float(Width.FLOAT16)).promise is Float.promise
