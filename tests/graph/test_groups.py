"""Layers in groups."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.activations.quantizers import Sign
from featherweight.architectures import ResNetCifar
from featherweight.architectures.efficientnet_lite import EfficientNetLite
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError, SchemeError, SelectionError
from featherweight.core.site import WEIGHTS, Sites, select
from featherweight.core.stage import Recipe, Stage
from featherweight.core.tap import Call, Operator, Place, TapSite
from featherweight.core.task import Example, Task
from featherweight.costs.operations import operations, uses
from featherweight.engines import ENGINES
from featherweight.engines.engine import Settings
from featherweight.graph.fold import FoldNorms
from featherweight.graph.groups import Group, GroupLayers, Wiring
from featherweight.run import run
from featherweight.schemes.amounts import RowFraction
from featherweight.schemes.grouped import GroupSparse
from featherweight.schemes.structures import FilterGroups, Norm
from featherweight.schemes.uniform import PerChannel, Uniform

POINTWISE = Sites(("*.expand.weight", "*.project.weight", "head.weight"))
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1-d": (lambda: nn.Conv1d(6, 8, 3, padding=1, padding_mode="reflect"), (2, 6, 5)),
    "2-d": (lambda: nn.Conv2d(6, 8, (3, 1), stride=2, padding="valid", dilation=2), (2, 6, 9, 5)),
    "2-d, same": (lambda: nn.Conv2d(6, 8, 3, padding="same", bias=False), (2, 6, 4, 4)),
    "2-d, one sample": (lambda: nn.Conv2d(6, 8, 1), (6, 3, 3)),
    "3-d": (lambda: nn.Conv3d(6, 8, 2), (2, 6, 3, 3, 3)),
    "linear": (lambda: nn.Linear(6, 8), (3, 6)),
    "linear, one sample": (lambda: nn.Linear(6, 8, bias=False), (6,)),
    "linear, of sequences": (lambda: nn.Linear(6, 8), (2, 3, 6)),
}
PARTED = torch.tensor([2, 0, 3, 1, 1, 0, 2, 3])
"""The group of every output where groups are of outputs that do not follow each other."""


def condensed(w: Tensor, groups: int, inputs: int) -> None:
    """Leave each group of filters that follow each other this many inputs."""
    w.copy_(GroupSparse(RowFraction(1 - inputs / w.shape[1]), structure=FilterGroups(groups)).project(w).decode())


def parted(w: Tensor) -> None:
    """Leave each output the inputs of its group."""
    reads = torch.arange(w.shape[1]) % 4
    w.masked_fill_((PARTED[:, None] != reads).view(*w.shape[:2], *[1] * (w.ndim - 2)), 0.0)


def close(ours: Tensor, theirs: Tensor) -> bool:
    return float((ours - theirs).abs().max()) <= 1e-9 * float(theirs.abs().max())


def task_of(model: nn.Module, x: Tensor) -> Task:
    return Task("groups", lambda: copy.deepcopy(model), lambda: model, lambda: Example((x,)))


@pytest.mark.parametrize("way", ["following", "parted"])
@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_a_layer_in_groups_computes_what_the_masked_one_does(name: str, way: str) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    model, x = nn.Sequential(make()).double().eval(), torch.randn(shape, dtype=torch.float64)
    w = model[0].weight
    condensed(w, 4, 2) if way == "following" else parted(w)
    student = Compressed(model)
    (edit,) = GroupLayers(4).decide(student, task_of(model, x))
    assert isinstance(edit, Group) and (edit.layers["0"].outputs is None) is (way == "following")
    student.edit(edit)
    assert student.base[0].groups == 4 and student.parameter("0.weight").shape[:2] == (8, 2)
    assert close(student(x), model(x))
    loaded, contents = file.load(file.encode(student), nn.Sequential(make()).double())
    assert contents.header.edits == (edit,) and torch.equal(loaded(x), student(x))


@torch.no_grad()
def test_what_runs_has_fewer_operations_and_the_file_fewer_bytes() -> None:
    torch.manual_seed(0)
    model = ResNetCifar(20).eval()
    dense = len(file.encode(Compressed(model)))
    inner = Sites(exclude=("conv1.weight",), min_dims=4)
    for w in select(model, inner).values():
        condensed(w, 4, w.shape[1] // 4)
    student, example = Compressed(model), Example((torch.randn(2, 3, 32, 32),))
    (edit,) = GroupLayers(4, inner).decide(student, task_of(model, example.args[0]))
    student.edit(edit)
    before, after = operations(model, example), operations(student.base, example)
    assert after.macs_dense == after.macs == before.macs < before.macs_dense / 3.5
    assert after.nonzero == before.nonzero and after.parameters < before.parameters / 3.5
    assert len(file.encode(student)) < dense / 3
    assert sum(uses(student.base, example)[name] * w.numel() for name, w in student.base.named_parameters()
               if w.ndim > 1) == after.macs  # fmt: skip


@torch.no_grad()
def test_pointwise_convolutions_of_efficientnet_lite() -> None:
    torch.manual_seed(0)
    model = EfficientNetLite(classes=10).double().eval()
    for w in select(model, POINTWISE).values():
        condensed(w, 2, w.shape[1] // 2)
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    student = Compressed(model)
    for edit in GroupLayers(2, POINTWISE).decide(student, task_of(model, x)):
        student.edit(edit)
    assert len(student.edits[0].layers) == len(select(model, POINTWISE))  # type: ignore[attr-defined]
    assert close(student(x), model(x))
    for module in (model, student.base):
        module.float()
    after, before = (operations(each, Example((x.float(),))) for each in (student.base, model))
    assert after.macs_dense == before.macs < 0.6 * before.macs_dense


@torch.no_grad()
def test_an_engine_runs_groups(tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 8)).eval()
    condensed(model[0].weight, 4, 2)
    parted(model[3].weight)
    student, x = Compressed(model), torch.randn(3, 6, 4, 4)
    student.edit(*GroupLayers(4).decide(student, task_of(model, x)))
    engine, path = ENGINES["onnxruntime"], tmp_path / "groups.onnx"
    engine.export(student.finished(), Example((x[:1],)), path)
    (output,) = engine.open(path, Settings()).run([x.numpy()])
    torch.testing.assert_close(torch.from_numpy(output), model(x), rtol=1e-4, atol=1e-5)


def test_it_still_learns() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        condensed(model[0].weight, 4, 2)
    model[2].weight.requires_grad_(False)
    student = Compressed(model)
    student.edit(*GroupLayers(4).decide(student, task_of(model, torch.randn(1, 6))))
    trained = student.finished()
    trained(torch.randn(5, 6)).square().sum().backward()
    assert bool((trained.get_parameter("0.weight").grad != 0).any()) and trained[2].weight.grad is None


@torch.no_grad()
def test_codes_of_weights_go_and_those_of_biases_follow() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval(), torch.randn(2, 8)
    parted(model[0].weight)
    student = Compressed(model)
    scheme = Uniform(8)
    for name in ("0.weight", "0.bias", "1.weight"):
        student.encode({name: scheme.project(student.parameter(name).detach())}, {name: scheme})
    before = student(x)
    student.edit(*GroupLayers(4).decide(student, task_of(model, x)))
    assert set(student.codes) == {"0.bias", "1.weight"}
    torch.testing.assert_close(student(x), before)


@torch.no_grad()
def test_a_layer_that_is_there_twice_is_grouped_at_both_places() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 8)
    parted(layer.weight)
    model, x = nn.ModuleDict({"first": layer, "second": layer}), torch.randn(2, 8)
    before = layer(x)
    student, scheme = Compressed(model), Uniform(8)
    student.encode({"first.bias": scheme.project(layer.bias)}, {"first.bias": scheme})
    (edit,) = GroupLayers(4).decide(student, task_of(model, x))
    assert isinstance(edit, Group) and edit.layers.keys() == {"first"}
    student.edit(edit)
    assert student.base["first"] is student.base["second"]
    assert torch.equal(student.base["first"].bias, student.codes["first.bias"].decode())
    torch.testing.assert_close(student.base["first"](x), before, atol=0.01, rtol=0)
    loaded, _ = file.load(file.encode(student), model)
    assert torch.equal(loaded.base["second"](x), student.base["first"](x))


@torch.no_grad()
def test_norms_are_folded_before_and_activations_tapped_behind() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8)).double().eval(), torch.randn(2, 6, 4, 4).double()
    model[1].running_mean.normal_()
    condensed(model[0].weight, 4, 2)
    student = Compressed(model)
    for rule in (FoldNorms(), GroupLayers(4)):
        student.edit(*rule.decide(student, task_of(model, x)))
    assert close(student(x), model(x))
    student.tap([TapSite(Place(Call("0", Operator.CONVOLVE)), Sign())])
    loaded, _ = file.load(file.encode(student), nn.Sequential(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8)).double())
    assert torch.equal(loaded(x), student(x))
    tapped = Compressed(model)
    tapped.tap([TapSite(Place(Call("0", Operator.CONVOLVE)), Sign())])
    with pytest.raises(SelectionError, match="group first"):
        tapped.edit(Group({"0": Wiring(((0,),))}))


@torch.no_grad()
def test_groups_may_read_different_numbers_of_inputs_and_share_them() -> None:
    model = nn.Sequential(nn.Linear(5, 4, bias=False)).double()
    model[0].weight.copy_(torch.tensor([[1.0, 0, 0, 0, 2], [0, 0, 0, 0, 3], [4, 0, 0, 0, 0], [0, 0, 0, 0, 0]]))
    student, x = Compressed(model), torch.randn(3, 5).double()
    (edit,) = GroupLayers(2).decide(student, task_of(model, x))
    assert edit == Group({"0": Wiring(((0, 4), (0, 1)))})  # the second reads input 1 by zeros
    student.edit(edit)
    assert close(student(x), model(x))


@torch.no_grad()
def test_what_cannot_be_grouped_stays() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({
        "dense": nn.Linear(6, 8), "odd": nn.Linear(6, 7), "depthwise": nn.Conv2d(8, 8, 3, groups=8),
        "one": nn.Linear(6, 8), "tied": nn.Linear(6, 8), "sparse": nn.Linear(6, 8),
    })  # fmt: skip
    for name in ("odd", "one", "sparse"):
        model[name].weight[:, :3] = 0
    model["tied"].weight = model["one"].weight
    student = Compressed(model)
    (edit,) = GroupLayers(2).decide(student, task_of(model, torch.randn(1, 6)))
    assert edit == Group({"sparse": Wiring(((3, 4, 5), (3, 4, 5)))})
    with pytest.raises(SelectionError, match="prune what groups read"):
        GroupLayers(2, Sites(("dense.weight",))).decide(student, task_of(model, torch.randn(1, 6)))
    with pytest.raises(SchemeError, match="0 groups"):
        GroupLayers(0)


@pytest.mark.parametrize(
    "record",
    [
        None, [], {}, {"inputs": []}, {"inputs": [[]]}, {"inputs": [[0], [1, 2]]}, {"inputs": [[1, 0]]},
        {"inputs": [[True]]}, {"inputs": [[-1]]}, {"inputs": [0]}, {"inputs": [[0]], "outputs": [0, 0]},
        {"inputs": [[0]], "outputs": [1, 2]}, {"inputs": [[0]], "outputs": "01"}, {"inputs": [[0]], "outputs": [0.0]},
        {"inputs": [[0]], "outputs": [0, "1"]},
    ],
    ids=str,
)  # fmt: skip
def test_records_that_are_none(record: object) -> None:
    with pytest.raises(FormatError):
        Group.from_json({"0": record})


@pytest.mark.parametrize(
    ("path", "wiring"),
    [
        ("", Wiring(((0,),))),
        ("9", Wiring(((0,),))),
        ("1", Wiring(((0,),))),
        ("0", Wiring(((0,), (1,), (2,)))),
        ("0", Wiring(((0, 6),))),
        ("0", Wiring(((0,), (1,)), (1, 0))),
    ],
    ids=str,
)
def test_edits_that_do_not_fit(path: str, wiring: Wiring) -> None:
    with pytest.raises(FormatError, match="to be grouped|groups as the edit says|not there"):
        Compressed(nn.Sequential(nn.Linear(6, 8), nn.ReLU())).edit(Group({path: wiring}))


def test_a_stage_groups_what_a_stage_before_condensed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    scheme = GroupSparse(RowFraction(0.75), structure=FilterGroups(4, norm=Norm.L1))
    stages = (
        Stage("condense", {WEIGHTS: scheme}),
        Stage("group", edit=GroupLayers(4)),
        Stage("int8", {WEIGHTS: Uniform(8, granularity=PerChannel(0))}),
    )
    student, coverage = run(model, task_of(model, torch.randn(1, 8)), Recipe("condensed", stages))
    assert [each.changes for each in coverage] == [0, 1, 0] and set(student.codes) == {"0.weight", "2.weight"}
    loaded, _ = file.load(file.encode(student), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)))
    x = torch.randn(3, 8)
    assert torch.equal(loaded(x), student(x))
