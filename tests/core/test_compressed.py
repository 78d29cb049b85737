"""The working model: it runs decoded weights on any module, and the user's module never notices."""

import copy
import io
import pickle
from dataclasses import replace
from hashlib import sha256

import pytest
import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SelectionError
from featherweight.core.metric import EUCLIDEAN
from featherweight.core.scheme import Scheme
from featherweight.core.stage import Learn
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.sparse import Fraction, Gradient, Scope, Sparse
from featherweight.schemes.uniform import Uniform

from .models import MODELS, Norm, Tied, made

SCHEME = Codebook(4)


def coded(model: nn.Module, scheme: Scheme = SCHEME, min_dims: int = 2) -> Compressed:
    """Every weight of the model by one scheme."""
    student = Compressed(model).eval()
    codes = {
        name: scheme.project(student.parameter(name).detach())
        for name in student.names
        if student.parameter(name).ndim >= min_dims
    }
    student.encode(codes, dict.fromkeys(codes, scheme))
    return student


def fingerprint(model: nn.Module) -> str:
    """Everything of a model that must not change: tensors with their memory, gradients, modes, hooks and names."""
    digest = sha256()
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        digest.update(f"{name} {tensor.requires_grad} {tensor.grad is None} {tensor.data_ptr()}".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    for name, module in model.named_modules():
        hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
        digest.update(f"{name} {type(module).__qualname__} {module.training} {hooks}".encode())
    return digest.hexdigest()


def stepped(student: Compressed, inputs: Tensor, steps: int = 3, lr: float = 0.1) -> list[float]:
    """A few steps of learning; the losses."""
    student.train()
    optimizer = torch.optim.Adam(student.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        loss = (student(inputs) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("name", MODELS)
def test_at_rest_it_computes_with_decoded_weights(name: str) -> None:
    model, inputs = made(name)
    student = coded(model)
    expected = copy.deepcopy(model).eval()
    assert student.codes
    with torch.no_grad():
        for each, code in student.codes.items():
            expected.get_parameter(each).copy_(code.decode())
        torch.testing.assert_close(student(inputs), expected(inputs), rtol=1e-6, atol=1e-6)
        assert float((student(inputs) - model.eval()(inputs)).abs().max()) > 1e-3
        torch.testing.assert_close(student.finished()(inputs), expected(inputs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("learn", Learn)
def test_learning_leaves_the_users_model_alone(name: str, learn: Learn) -> None:
    """Neither gradients nor statistics nor modes nor an optimizer reach it; what was learned is what runs at rest."""
    model, inputs = made(name)
    model.train()
    before = fingerprint(model)
    student = coded(model, Uniform(4))
    student.learn(dict.fromkeys(student.codes, learn))
    mine = {p.data_ptr() for p in model.parameters()}
    learning = [p for group in student.learnable() for p in group]
    assert learning and not mine & {p.data_ptr() for p in learning}
    losses = stepped(student, inputs, steps=8, lr=3e-3)
    assert losses[-1] < losses[0]
    student.eval().settle()
    assert fingerprint(model) == before
    assert not any(p.requires_grad for p in student.parameters())
    loaded, _ = file.load(file.encode(student), made(name)[0])
    with torch.no_grad():
        assert torch.equal(loaded(inputs), student(inputs))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("learn", [Learn.DIRECT, Learn.LATENT, Learn.BOTH])
def test_gradients_are_those_of_the_decoded_weight(name: str, learn: Learn) -> None:
    """The gradient of what learns is the gradient of the plain model's weight, through the scheme's own rule."""
    model, inputs = made(name)
    student = coded(model)
    student.learn(dict.fromkeys(student.codes, learn), rest=False)
    student(inputs).square().sum().backward()
    plain = student.finished().requires_grad_(True)
    with torch.no_grad():
        for each in student.codes:
            plain.get_parameter(each).copy_(student.weight(each))
    plain(inputs).square().sum().backward()
    for each in student.codes:
        upstream = plain.get_parameter(each).grad
        assert upstream is not None
        latent, centroids = student.parameter(each).grad, student.codes[each].centroids.values.grad
        if learn is not Learn.DIRECT:
            torch.testing.assert_close(latent, upstream)
        if learn is Learn.DIRECT:
            members = student.codes[each].indices
            summed = torch.stack([upstream[members == k].sum() for k in range(len(centroids))])
            torch.testing.assert_close(centroids, summed)


def test_a_tied_weight_is_coded_once_and_runs_under_all_its_names() -> None:
    model, inputs = made("tied embedding")
    student = coded(model)
    assert student.names["embed.weight"] == ("embed.weight", "head.weight")
    assert list(student.codes) == ["embed.weight", "mix.weight"]
    assert student.base.embed.weight is student.base.head.weight
    assert [(slot.name, slot.also) for slot in file.slots(student.base)][0] == ("embed.weight", ("head.weight",))
    for learn in (Learn.DIRECT, Learn.LATENT):
        student.learn({"embed.weight": learn})
        seen = student.weight("embed.weight")
        with student.decoded() as base:
            assert base.embed.weight is base.head.weight
            assert torch.equal(base.embed.weight, seen)
        stepped(student, inputs)
        student.settle()
        assert student.base.embed.weight is student.base.head.weight
        assert student.finished().embed.weight is not student.base.embed.weight
    finished = student.finished()
    assert finished.embed.weight is finished.head.weight
    with pytest.raises(SelectionError, match="head.weight.*first name"):
        student.encode({"head.weight": student.codes["embed.weight"]}, {"head.weight": SCHEME})


def test_classes_names_and_hooks_stay() -> None:
    model, inputs = made("batch norm")
    calls: list[str] = []
    model.conv.register_forward_hook(lambda module, args, output: calls.append(type(module).__name__))
    student = coded(model)
    assert type(student.base) is Norm
    assert [n for n, _ in student.base.named_modules()] == [n for n, _ in model.named_modules()]
    assert list(student.base.state_dict()) == list(model.state_dict())
    student(inputs)
    student.learn(dict.fromkeys(student.codes, Learn.DIRECT))
    student(inputs)
    student.finished()(inputs)
    assert calls == ["Conv2d"] * 3


@pytest.mark.parametrize("learn", [None, *Learn])
@pytest.mark.parametrize("name", ["tied embedding", "lstm", "batch norm"])
def test_copies_are_independent(name: str, learn: Learn | None) -> None:
    """While at rest and while learning; exponential moving averages and teachers are made like this."""
    model, inputs = made(name)
    student = coded(model)
    if learn:
        student.learn(dict.fromkeys(student.codes, learn))
    twin = copy.deepcopy(student)
    outputs = student(inputs).detach()
    assert torch.equal(twin(inputs), outputs)
    if learn:
        stepped(student, inputs)
    else:
        student.encode({k: Sparse(Fraction(0.9)).project(student.weight(k)) for k in student.codes},
                       dict.fromkeys(student.codes, SCHEME))  # fmt: skip
    student.eval()
    assert torch.equal(twin.eval()(inputs), outputs)
    assert not torch.equal(student(inputs), outputs)


@pytest.mark.parametrize("learn", [None, *Learn])
def test_state_dict_round_trip(learn: Learn | None) -> None:
    """What learns is in the state under names of its own, and a state taken earlier brings it back."""
    model, inputs = made("batch norm")
    student = coded(model)
    if learn:
        student.learn(dict.fromkeys(student.codes, learn))
    kept = copy.deepcopy(student.state_dict())
    outputs = student.eval()(inputs).detach()
    if learn:
        stepped(student, inputs)
        assert not torch.equal(student.eval()(inputs), outputs)
    student.load_state_dict(kept)
    assert torch.equal(student.eval()(inputs), outputs)


@pytest.mark.parametrize("name", ["linear", "batch norm", "tied embedding", "attention", "bare parameters"])
def test_it_exports_at_rest(name: str) -> None:
    model, inputs = made(name)
    student = coded(model)
    program = torch.export.export(student, (inputs,))
    torch.testing.assert_close(program.module()(inputs), student(inputs))


@pytest.mark.parametrize("learn", [None, Learn.DIRECT, Learn.LATENT])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_it_compiles_as_one_graph(learn: Learn | None, backend: str) -> None:
    model, inputs = made("batch norm")
    student = coded(model, Uniform(4))
    if learn:
        student.learn(dict.fromkeys(student.codes, learn))
    torch._dynamo.reset()
    compiled = torch.compile(student, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(inputs), student(inputs))


def test_a_finished_model_is_the_users_and_nobody_elses() -> None:
    """Of the user's class, pickled as such, trainable where it was; ours is not in it."""
    model, inputs = made("tied embedding")
    model.mix.bias.requires_grad_(False)
    student = coded(model)
    finished = student.finished()
    stream = io.BytesIO()
    pickle.dump(finished, stream)
    assert b"featherweight" not in stream.getvalue()
    again = pickle.loads(stream.getvalue())
    assert type(again) is Tied
    assert torch.equal(again.eval()(inputs), student(inputs))
    trainable = {name: p.requires_grad for name, p in finished.named_parameters()}
    assert trainable == {name: p.requires_grad for name, p in model.named_parameters()}
    with torch.no_grad():
        for p in finished.parameters():
            p.zero_()
    assert not torch.equal(student(inputs), finished(inputs))


@pytest.mark.parametrize("learn", [Learn.DIRECT, Learn.LATENT, Learn.BOTH])
def test_other_entry_points(learn: Learn) -> None:
    """``decoded()`` swaps the weights in for ``generate``, and lets gradients through."""
    model, _ = made("tied embedding")
    student = coded(model)
    student.learn(dict.fromkeys(student.codes, learn))
    tokens = torch.arange(5)
    with student.decoded() as base:
        base.loss_of(tokens).backward()
        generated = base.generate(tokens)
    assert type(base) is Tied
    assert all(isinstance(p, nn.Parameter) for p in base.parameters())
    gradients = [p.grad for p in student.parameters() if p.requires_grad]
    assert all(g is not None for g in gradients) or learn is Learn.BOTH
    assert sum(float(g.abs().sum()) for g in gradients if g is not None) > 0
    student.settle()
    assert torch.equal(student.base.generate(tokens), generated)


def test_weights_come_back_when_an_entry_point_fails() -> None:
    model, _ = made("tied embedding")
    student = coded(model)
    student.learn(dict.fromkeys(student.codes, Learn.LATENT))
    before = dict(student.base.named_parameters())
    with pytest.raises(RuntimeError, match="mine"), student.decoded():
        raise RuntimeError("mine")
    after = dict(student.base.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())


def test_what_the_user_froze_stays_frozen() -> None:
    model, inputs = made("batch norm")
    model.head.bias.requires_grad_(False)
    student = coded(model)
    student.learn(dict.fromkeys(student.codes, Learn.LATENT))
    stepped(student, inputs)
    assert torch.equal(student.weight("head.bias"), model.head.bias)
    assert not torch.equal(student.weight("norm.bias"), model.norm.bias)


def test_without_the_rest_only_the_codes_learn() -> None:
    model, inputs = made("batch norm")
    student = coded(model)
    student.learn(dict.fromkeys(student.codes, Learn.DIRECT), rest=False)
    assert student.learnable()[1] == []
    stepped(student, inputs)
    for name in ("conv.bias", "norm.weight", "norm.bias", "head.bias"):
        assert torch.equal(student.weight(name), model.get_parameter(name))


def test_learned_numbers_are_rounded_to_what_a_file_holds() -> None:
    model, inputs = made("linear")
    student = coded(model)
    student.learn(dict.fromkeys(student.codes, Learn.DIRECT))
    stepped(student, inputs)
    learned = student.codes["0.weight"].centroids.decode().detach().clone()
    student.settle()
    code = student.codes["0.weight"]
    assert code.centroids.width is Width.FLOAT16
    assert torch.equal(code.centroids.decode(), learned.half().float())
    assert not torch.equal(code.centroids.decode(), learned)


def test_integer_state_and_scalars() -> None:
    """Integer and boolean buffers and parameters pass through; a scalar can be coded."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = nn.Parameter(torch.tensor([1, -(2**62)]), requires_grad=False)
            self.scale = nn.Parameter(torch.tensor(0.3))
            self.register_buffer("seen", torch.tensor(True))
            self.register_buffer("count", torch.tensor(3, dtype=torch.int16))
            self.register_buffer("passing", torch.tensor(5.0), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale + self.steps[0] + self.count * self.seen

    student = Compressed(Odd())
    code = Uniform(8).project(student.parameter("scale").detach())
    student.encode({"scale": code}, {"scale": Uniform(8)})
    student.learn({"scale": Learn.LATENT})
    assert student.learnable()[1] == [student.parameter("scale")]
    student.settle()
    loaded, contents = file.load(file.encode(student), Odd())
    assert list(contents.codes) == ["steps", "scale", "seen", "count"]
    assert torch.equal(loaded.base.steps, torch.tensor([1, -(2**62)]))
    assert torch.equal(loaded(torch.ones(2)), student(torch.ones(2)))


def test_codes_must_exist_before_they_learn() -> None:
    student = Compressed(made("linear")[0])
    with pytest.raises(SelectionError, match="'0.weight' has no code yet"):
        student.learn({"0.weight": Learn.DIRECT})
    with pytest.raises(SelectionError, match="no parameter 'none'"):
        student.encode({"none": Float().project(torch.ones(2))}, {"none": Float()})


def test_untouched_parameters_share_the_users_memory() -> None:
    """A large model with a few codes costs the memory of the codes."""
    model, _ = made("batch norm")
    student = coded(model)
    for name, parameter in model.named_parameters():
        assert (student.parameter(name).data_ptr() == parameter.data_ptr()) is (name not in student.codes)
        assert student.parameter(name) is not parameter


@pytest.mark.parametrize("learn", Learn)
@pytest.mark.parametrize("scheme", [Float(), Float(Width.FLOAT16), Codebook(4), Uniform(4, False)], ids=str)
def test_a_code_is_never_changed(scheme: Scheme, learn: Learn) -> None:
    """Learning makes other codes; those that somebody holds stay."""
    model, inputs = made("linear")
    student = coded(model, scheme)
    held = dict(student.codes)
    before = {name: code.map(torch.clone) for name, code in held.items()}
    student.learn(dict.fromkeys(held, learn))
    stepped(student, inputs)
    student.settle()
    for name, code in held.items():
        assert all(torch.equal(t, before[name].tensors()[path]) for path, t in code.tensors().items())


@pytest.mark.parametrize("gradient", Gradient)
def test_what_is_pruned_may_return_only_with_dense_gradients(gradient: Gradient) -> None:
    """Momentum moves a weight after its gradient was masked; the next projection does not see that."""
    model, _ = made("linear")
    scheme = Sparse(Fraction(0.5), gradient=gradient)
    student = coded(model, scheme)
    support = student.codes["0.weight"].support
    student.learn({"0.weight": Learn.LATENT})
    with torch.no_grad():
        student.parameter("0.weight").add_(~support * 10.0)
    again = scheme.project(student.source("0.weight")).support
    assert torch.equal(again, support if gradient is Gradient.MASKED else ~support)


def test_renewed_values_are_coded_anew_and_the_original_stays() -> None:
    model, _ = made("batch norm")
    before = fingerprint(model)
    student = coded(model, Float(Width.FLOAT16), min_dims=1)
    del student._codes["norm.bias"]
    value = torch.tensor([1.0, 2.0, 3.0, 4.0001])
    for name in ("conv.bias", "norm.bias"):
        student.renew(name, value)
    assert (
        student.parameter("conv.bias").tolist() == value.half().tolist() == student.codes["conv.bias"].decode().tolist()
    )
    assert student.parameter("norm.bias").tolist() == value.tolist()
    value.zero_()
    assert student.parameter("norm.bias").abs().min() > 0
    assert fingerprint(model) == before


def test_what_cannot_be_renewed() -> None:
    student = coded(made("tied embedding")[0])
    with pytest.raises(SelectionError, match=r"'head.weight' to renew"):
        student.renew("head.weight", torch.zeros(10, 4))
    with pytest.raises(SelectionError, match=r"shape \(10, 4\), not \(4, 10\)"):
        student.renew("embed.weight", torch.zeros(4, 10))
    student.learn({"embed.weight": Learn.DIRECT})
    with pytest.raises(SelectionError, match="at rest"):
        student.renew("mix.bias", torch.zeros(4))


def test_free_weights_start_at_their_code_and_end_on_it() -> None:
    student = Compressed(nn.Linear(4, 4, bias=False))
    scheme = Uniform(2)
    dense = student.parameter("weight").detach().clone()
    student.encode({"weight": scheme.project(dense)}, {"weight": scheme})
    student.learn({"weight": Learn.FREE}, latents={"weight": dense})
    assert torch.equal(student.weight("weight"), scheme.project(dense).decode())
    moved = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    student.parameter("weight").data.copy_(moved)
    assert torch.equal(student.weight("weight"), moved), "nothing stands between the weight and the model"
    student.encode({"weight": scheme.project(student.source("weight"))}, {"weight": scheme})
    assert torch.equal(student.weight("weight"), scheme.project(moved).decode()), "a projection distorts the weight"
    student.parameter("weight").data.copy_(2 * moved)
    student.settle()
    assert torch.equal(student.parameter("weight"), scheme.project(2 * moved).decode())


@pytest.mark.parametrize("mode", [Learn.DIRECT, Learn.MUTUAL])
def test_codes_with_one_tensor_learn_one_parameter(mode: Learn) -> None:
    student = Compressed(nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)))
    first = Codebook(3).project(student.parameter("0.weight").detach())
    second = replace(Codebook(3).project(student.parameter("1.weight").detach()), centroids=first.centroids)
    student.encode({"0.weight": first, "1.weight": second}, dict.fromkeys(("0.weight", "1.weight"), Codebook(3)))
    student.learn(dict.fromkeys(("0.weight", "1.weight"), mode))
    fields, _ = student.learnable()
    assert len(fields) == 1
    fields[0].data += 1
    student.settle()
    one, two = (student.codes[name].parts()["centroids"].tensors()["values"] for name in ("0.weight", "1.weight"))
    assert one is two, "and they go on as one"
    torch.testing.assert_close(one, first.centroids.decode() + 1, rtol=1e-3, atol=1e-3)


def test_pulled_weights_under_one_budget_end_under_it() -> None:
    student = Compressed(nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)))
    student.parameter("1.weight").data.mul_(10)
    scheme = Sparse(Fraction(0.5), scope=Scope.GLOBAL)
    names = ("0.weight", "1.weight")
    weights = {name: student.parameter(name).detach().clone() for name in names}
    student.encode(scheme.project_all(weights, dict.fromkeys(names, EUCLIDEAN)), dict.fromkeys(names, scheme))
    student.learn(dict.fromkeys(names, Learn.PULLED), latents=weights)
    student.settle()
    zeros = [int((student.parameter(name) == 0).sum()) for name in names]
    assert sum(zeros) == 64 and zeros[0] > zeros[1] + 20
