"""The full metric of a layer: the second moment of what its weight is multiplied with, and its outputs' curvature."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, TaskError
from featherweight.core.hooks import hooked
from featherweight.core.metric import EUCLIDEAN, Diagonal, Full, Metric
from featherweight.core.stage import MetricRule
from featherweight.core.task import Task, call, evaluating, tensors_of
from featherweight.costs.operations import TRANSPOSED
from featherweight.metrics.prefix import Key, Prefix, calibration, observed, owner
from featherweight.metrics.recurrent import met_by, recurrent
from featherweight.training.loop import seeded


@dataclass(frozen=True)
class OfInputs(MetricRule):
    """Metrics of what layers take in, over so many calibration ``batches``."""

    batches: int = 16
    prefix: Prefix | None = field(default=None, repr=False, compare=False, kw_only=True)

    def knows(self, layer: nn.Module, name: str) -> bool:
        """Whether the inputs that the parameter meets can be measured."""
        return known(layer, name)

    def begun(self, student: Compressed, names: Sequence[str], task: Task) -> Self:
        wanted = [name for name in names if self.knows(owner(student, name), name)]
        return replace(self, prefix=observed(student, wanted, task, self.batches, likeness) if wanted else None)

    def together(self, names: Sequence[str]) -> Sequence[Sequence[str]]:
        return [[name] for name in names] if self.prefix is None else self.prefix.shared(names)


@dataclass(frozen=True)
class InputMoment(OfInputs):
    """``H = E[x xᵀ]`` over the inputs ``x`` that a weight's rows meet, with the student as it stands.

    A linear layer's ``x`` is its input, a convolution's a patch of it, for each of its groups; a recurrent layer's
    weights meet its inputs, and its states one step before. An embedding's rows are met as often as their tokens come:
    ``H`` is the identity and the frequencies weigh the rows; a token that never came counts as if it had come once.
    Layers that take in the same tensor are measured together; else one layer's moment is in memory at a time. The model
    runs no further than the layer, and, where parameters are projected one after the other, from behind the blocks that
    are compressed already (:class:`featherweight.metrics.prefix.Prefix`). Where the rule is not ``required``, weights
    whose inputs are not known, or that no calibration input reaches, get the Euclidean metric; else they raise
    ``SchemeError`` and ``TaskError``. With ``shrink``, moments of few samples are drawn to a multiple of the identity
    (:func:`shrunk`). With ``transposed`` the inputs of transposed convolutions of one group are known too: what the
    rows of their weights, outputs first (:func:`outputs_first`), are multiplied with. That is not how codes see them.
    """

    required: bool = True
    shrink: bool = False
    transposed: bool = field(default=False, repr=False, compare=False, kw_only=True)

    def knows(self, layer: nn.Module, name: str) -> bool:
        return known(layer, name) or (self.transposed and _mirrored(layer, name))

    @torch.no_grad()
    def measure(self, student: Compressed, names: Sequence[str], task: Task) -> dict[str, Metric]:
        prefix = self.prefix or Prefix(student, task, self.batches)
        found: dict[str, Metric] = {}
        for part in prefix.shared(names):
            found |= dict.fromkeys(part, self._one(student, part[0], prefix, task))
        return {name: found[name] for name in names}

    def _one(self, student: Compressed, name: str, prefix: Prefix, task: Task) -> Metric:
        layer = owner(student, name)
        if not self.knows(layer, name):
            if not self.required:
                return EUCLIDEAN
            raise SchemeError(
                f"the inputs that {name} of a {type(layer).__name__} like this meets are not known; leave it out"
            )
        moment: _Frequencies | _Moment
        if isinstance(layer, nn.Embedding):
            moment = prefix.collect(name, lambda: _Frequencies(layer))
        else:
            moment = prefix.collect(name, lambda: _Moment(layer, name, self.shrink))
        if moment.count:
            return moment.metric()
        if not self.required:
            return EUCLIDEAN
        raise TaskError(f"no calibration input reached the layer of {name}; give data that uses it")


@dataclass(frozen=True)
class InputNorm(OfInputs):
    """The diagonal of :class:`InputMoment`: ``d_rj = E[x_j²]``, so that importances are ``|w_rj| ‖x_j‖₂ / √n``.

    Of the memory of one input vector, and as exact. Weights whose inputs are not known, or that no calibration input
    reaches, raise ``SchemeError`` and ``TaskError``.
    """

    @torch.no_grad()
    def measure(self, student: Compressed, names: Sequence[str], task: Task) -> dict[str, Metric]:
        prefix = self.prefix or Prefix(student, task, self.batches)
        found: dict[str, Metric] = {}
        for part in prefix.shared(names):
            squares = self._one(student, part[0], prefix)
            found |= {name: squares.metric(student.weight(name)) for name in part}
        return {name: found[name] for name in names}

    def _one(self, student: Compressed, name: str, prefix: Prefix) -> "_Squares":
        layer = owner(student, name)
        if not known(layer, name) or isinstance(layer, nn.Embedding):
            raise SchemeError(f"{name} of a {type(layer).__name__} has no norms of inputs that are known; leave it out")
        squares = prefix.collect(name, lambda: _Squares(layer, name))
        if not squares.count:
            raise TaskError(f"no calibration input reached the layer of {name}; give data that uses it")
        return squares


@dataclass(frozen=True)
class Kronecker(MetricRule):
    """``Σ_r g_r (w_r − v_r) H (w_r − v_r)ᵀ``: the rise of the loss, in the Kronecker-factored Gauss-Newton form.

    ``H`` is :class:`InputMoment`'s, measured anew when a layer's turn comes, behind what is compressed already. ``g_r``
    is what a unit error of output ``r`` costs: the expected squared gradient with respect to it, summed over the
    positions at which a sample meets the layer, measured once, before anything is projected. Gradients are of
    ``log p(label)`` for labels drawn from the model's own predictions, where the task counts right answers (the Fisher
    information: no labels are needed), at a ``temperature`` that divides the logits, since a network is sure of the
    images that it has learned; else of a random projection of the outputs (the Gauss-Newton matrix of their
    squared error). Taken to be a diagonal, and independent of ``x`` (Martens and Grosse 2015, arXiv 1503.05671, section
    3). No ``g_r`` is below ``floor`` times the largest of its layer. For an embedding, whose inputs are rows, the sides
    change: ``H`` is the second moment of the gradients. ``transposed`` as for :class:`InputMoment`.
    """

    batches: int = 16
    draws: int = 2
    floor: float = 1e-3
    seed: int = 0
    required: bool = True
    shrink: bool = True
    temperature: float = 4.0
    transposed: bool = field(default=False, repr=False, compare=False, kw_only=True)
    found: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)
    moments: InputMoment | None = field(default=None, repr=False, compare=False)

    def logits(self, task: Task) -> bool:
        """Whether outputs are logits of labels, over their last dimension."""
        return task.quality.counts

    def begun(self, student: Compressed, names: Sequence[str], task: Task) -> "Kronecker":
        moments = InputMoment(self.batches, self.required, self.shrink, transposed=self.transposed)
        wanted = [name for name in names if moments.knows(owner(student, name), name)]
        found = self._curvatures(student, wanted, task)
        return replace(self, found=found, moments=moments.begun(student, names, task))

    def together(self, names: Sequence[str]) -> Sequence[Sequence[str]]:
        return [[name] for name in names] if self.moments is None else self.moments.together(names)

    def measure(self, student: Compressed, names: Sequence[str], task: Task) -> dict[str, Metric]:
        rule = self if self.moments is not None else self.begun(student, names, task)
        assert rule.moments is not None
        return {name: rule._weighed(name, each) for name, each in rule.moments.measure(student, names, task).items()}

    def _weighed(self, name: str, metric: Metric) -> Metric:
        if not isinstance(metric, Full) or name not in self.found:
            return metric
        g = self.found[name]
        if g.ndim == 2:
            return Full(g, metric.rows)
        largest = float(g.max())
        if not largest > 0:
            return metric  # no output depends on it: no error counts more than another
        return Full(metric.hessian, g.clamp(min=self.floor * largest))

    def _curvatures(self, student: Compressed, names: Sequence[str], task: Task) -> dict[str, Tensor]:
        layers = {name: owner(student, name) for name in names if not recurrent(owner(student, name))}
        total: dict[str, Tensor] = {}
        samples = 0
        leaves = {name: student.weight(name).detach().requires_grad_() for name in names}

        def swapped(*args: Any, **kwargs: Any) -> Any:
            return torch.func.functional_call(student.base, leaves, args, kwargs)

        with evaluating(student), torch.enable_grad(), seeded(self.seed, 0):
            for batch in calibration(student, task, self.batches):
                with _outputs(layers) as outputs:
                    result = call(swapped, batch)
                flat = [(name, each) for name, calls in outputs.items() for each in calls if each.requires_grad]
                wanted = [each for _, each in flat]
                if not wanted:  # weights that their layers' own calls do not use, as an attention's projection
                    continue
                for draw in range(self.draws):
                    value, count = probe(result, task, self.logits(task), self.temperature)
                    samples += count
                    found = torch.autograd.grad(value, wanted, retain_graph=draw + 1 < self.draws, allow_unused=True)
                    for (name, _), gradient in zip(flat, found, strict=True):
                        if gradient is not None:
                            each = _squares(layers[name], gradient.detach())
                            total[name] = total[name] + each if name in total else each
        return {name: each / samples for name, each in total.items()}


@dataclass(frozen=True)
class LogitKronecker(Kronecker):
    """:class:`Kronecker` for models whose outputs are logits whatever the task measures: models of language."""

    def logits(self, task: Task) -> bool:
        return True


def _squares(layer: nn.Module, gradient: Tensor) -> Tensor:
    """Summed over samples and positions: the squared gradient of each output; an embedding's second moment."""
    if isinstance(layer, nn.Embedding):
        rows = gradient.reshape(-1, gradient.shape[-1])
        return (rows.T @ rows).double()
    channel = -1 if isinstance(layer, nn.Linear) else 1
    return gradient.movedim(channel, -1).flatten(0, -2).square().sum(0).double()


def probe(outputs: Any, task: Task, logits: bool, temperature: float = 1.0) -> tuple[Tensor, int]:
    """A scalar whose gradients' expected squares are the curvature, summed over samples; and how many there are."""
    found = [each.float() for each in tensors_of(outputs)]
    if not found:
        raise TaskError(f"the model of task {task.name!r} has no floating-point output to measure")
    if not all(bool(torch.isfinite(each).all()) for each in found):
        raise SchemeError(f"outputs of task {task.name!r} are not finite: look for NaN in model and calibration data")
    samples = len(found[0]) if found[0].ndim else 1
    if logits and len(found) == 1:
        logarithms = (found[0] / temperature).log_softmax(-1)
        drawn = torch.distributions.Categorical(logits=logarithms.detach(), validate_args=False).sample()  # type: ignore[no-untyped-call]
        return logarithms.gather(-1, drawn[..., None]).sum(), samples
    return torch.stack([(each * torch.randn_like(each)).sum() for each in found]).sum(), samples


class _Moment:
    """``Σ x xᵀ`` of every group, in float64."""

    def __init__(self, layer: nn.Module, name: str, shrink: bool) -> None:
        self.layer, self.name, self.shrink = layer, name, shrink
        self.count, self.independent, self.total = 0, 0.0, torch.zeros(())

    def add(self, args: tuple[Any, ...]) -> None:
        x = _met(self.layer, self.name, args)
        product = x.transpose(1, 2) @ x
        self.total = self.total.add_(product) if self.count else product.double()
        self.count += x.shape[1]
        self.independent += (len(args[0]) * x.shape[1]) ** 0.5

    def metric(self) -> Full:
        """The moment, which is then no longer here: it is large."""
        hessian, self.total = self.total, torch.zeros(())
        hessian /= self.count
        hessian = shrunk(hessian, self.independent) if self.shrink else hessian
        return Full(hessian[0] if len(hessian) == 1 else hessian)


class _Squares:
    """``Σ x²`` of every input of every group, in float64."""

    def __init__(self, layer: nn.Module, name: str) -> None:
        self.layer, self.name, self.count, self.total = layer, name, 0, torch.zeros(())

    def add(self, args: tuple[Any, ...]) -> None:
        x = _met(self.layer, self.name, args)
        self.total = self.total.to(x.device) + x.double().square().sum(1)
        self.count += x.shape[1]

    def metric(self, w: Tensor) -> Diagonal:
        rows = (self.total / self.count).repeat_interleave(len(w) // len(self.total), 0)
        return Diagonal(rows.reshape(w.shape))


def shrunk(moment: Tensor, samples: float) -> Tensor:
    """``(1 − ρ) S + ρ (tr S / p) I`` of every [p, p] moment ``S``, by the oracle approximating shrinkage.

    ``ρ = ((1 − 2/p) tr S² + tr² S) / ((n + 1 − 2/p) (tr S² − tr² S / p))``, at most 1 (Chen, Wiesel, Eldar and Hero
    2010, Shrinkage algorithms for MMSE covariance estimation, equation 23). A moment of few samples has directions
    that none of them happened to have, in which no error would count: a sweep moves all errors there. Positions of one
    sample are alike, so that ``n`` counts the root of their number a sample, which is ours.
    """
    p = moment.shape[-1]
    trace = moment.diagonal(dim1=-2, dim2=-1).sum(-1)
    squares = moment.square().sum((-2, -1))
    apart = (squares - trace.square() / p).clamp(min=1e-300)
    rho = (((1 - 2 / p) * squares + trace.square()) / ((samples + 1 - 2 / p) * apart)).clamp(0, 1)[..., None, None]
    return (1 - rho) * moment + rho * (trace / p)[..., None, None] * torch.eye(
        p, dtype=moment.dtype, device=moment.device
    )


class _Frequencies:
    """How often every row of an embedding is looked up."""

    def __init__(self, layer: nn.Embedding) -> None:
        self.layer, self.count = layer, 0
        self.total = torch.ones(layer.num_embeddings, dtype=torch.float64)

    def add(self, args: tuple[Any, ...]) -> None:
        tokens = args[0].flatten()
        self.total = self.total.to(tokens.device) + torch.bincount(tokens, minlength=len(self.total))
        self.count += len(tokens)

    def metric(self) -> Full:
        columns = self.layer.embedding_dim
        eye = torch.eye(columns, dtype=torch.float64, device=self.total.device)
        return Full(eye, self.total / self.count)


@contextmanager
def _outputs(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """What the layers give while the model runs, call by call."""
    found: dict[str, list[Tensor]] = {name: [] for name in layers}

    def note(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        return lambda module, args, result: found[name].append(result)

    with hooked(layer.register_forward_hook(note(name)) for name, layer in layers.items()):
        yield found


def known(layer: nn.Module, name: str) -> bool:
    """Whether it is known what the parameter is multiplied with."""
    if recurrent(layer):
        return name.rpartition(".")[2].startswith(("weight_ih_l", "weight_hh_l"))
    if not name.endswith("weight") or name.rpartition(".")[2] != "weight":
        return False
    return isinstance(layer, nn.Linear | nn.Embedding | nn.Conv1d | nn.Conv2d | nn.Conv3d)


def _mirrored(layer: nn.Module, name: str) -> bool:
    """Whether the parameter is the weight of a transposed convolution of one group."""
    return isinstance(layer, TRANSPOSED) and layer.groups == 1 and name.rpartition(".")[2] == "weight"


def outputs_first(layer: nn.Module, w: Tensor) -> Tensor:
    """A layer's weight as [outputs, inputs, ...], or back: transposed convolutions have their inputs first."""
    return w.transpose(0, 1) if isinstance(layer, TRANSPOSED) else w


def likeness(layer: nn.Module, name: str) -> Key | None:
    """Equal for weights that are multiplied with the same, where their layers take in the same tensor."""
    match layer:
        case nn.Linear():
            return ("linear",)
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d() if known(layer, name):
            spread = (layer.kernel_size, layer.dilation, layer.padding, layer.padding_mode, layer.stride, layer.groups)
            return (layer.weight.ndim, *spread)
        case _:
            return None


def _met(layer: nn.Module, name: str, args: tuple[Any, ...]) -> Tensor:
    """What the parameter's rows are multiplied with in one call of its layer: [groups, n, columns]."""
    if isinstance(layer, nn.RNNBase):
        return met_by(layer, name.rpartition(".")[2], args)[None]
    return grouped_inputs(layer, args[0])


def grouped_inputs(layer: nn.Module, x: Tensor) -> Tensor:
    """The rows that the layer's weight, flattened to [out, columns], is multiplied with: [groups, n, columns]."""
    match layer:
        case nn.Linear():
            return x.reshape(1, -1, x.shape[-1])
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            return windows(layer, x).flatten(1, layer.weight.ndim - 1).flatten(2)
        case nn.ConvTranspose1d() | nn.ConvTranspose2d() | nn.ConvTranspose3d() if layer.groups == 1:
            return spread(layer, x).flatten(0, layer.weight.ndim - 2).flatten(1)[None]
        case _:
            raise SchemeError(
                f"the input moment of a {type(layer).__name__} like this is not known; leave its weight out"
            )


def windows(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """What the kernel meets at every place, a view: [groups, n, *places, channels of a group, *kernel]."""
    x = _unfolded(_padded(layer, x if x.ndim == layer.weight.ndim else x[None]), layer, layer.stride)
    parts = x.reshape(len(x), layer.groups, layer.in_channels // layer.groups, *x.shape[2:]).movedim(1, 0)
    return parts.movedim(2, 2 + len(layer.kernel_size))


def spread(layer: nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d, x: Tensor) -> Tensor:
    """What the kernel of each output meets at every place of the output: [n, *places, channels, *kernel].

    A transposed convolution is one of stride 1 over its input with ``stride − 1`` zeros behind every entry, by the
    kernel in reverse. As the layer's kernel stands here, the input is what is reversed.
    """
    x = x if x.ndim == layer.weight.ndim else x[None]
    axes = len(layer.kernel_size)
    wide = x.new_zeros(*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], layer.stride, strict=True)))
    wide[(slice(None), slice(None), *(slice(None, None, step) for step in layer.stride))] = x
    sides = []
    for axis in reversed(range(axes)):
        padding = layer.padding[axis]
        assert isinstance(padding, int)  # transposed convolutions take no words
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1) - padding
        sides += [reach, reach + layer.output_padding[axis]]
    wide = _unfolded(F.pad(wide, sides), layer, [1] * axes)  # padding takes away where it is negative
    return wide.movedim(1, 1 + axes).flip([-1 - axis for axis in range(axes)])


def _unfolded(x: Tensor, layer: nn.modules.conv._ConvNd, strides: Sequence[int]) -> Tensor:
    """[n, channels, *places, *kernel], a view: what lies under the layer's kernel, moved by these strides."""
    for axis, size in enumerate(layer.kernel_size):
        dilation = layer.dilation[axis]
        x = x.unfold(axis + 2, (size - 1) * dilation + 1, strides[axis])[..., ::dilation]
    return x


def _padded(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """As the layer pads its input itself. ``F.pad`` counts from the last dimension on."""
    if layer.padding_mode != "zeros":
        return F.pad(x, layer._reversed_padding_repeated_twice, layer.padding_mode)
    if isinstance(layer.padding, str):  # "same" may pad one more behind than before
        return F.pad(x, layer._reversed_padding_repeated_twice)
    return F.pad(x, [side for each in reversed(layer.padding) for side in (each, each)])


def patches(layer: nn.Module, x: Tensor) -> Tensor:
    """:func:`grouped_inputs` of a layer with one group: [n, columns]."""
    rows = grouped_inputs(layer, x)
    if len(rows) > 1:
        raise SchemeError(f"a {type(layer).__name__} of {len(rows)} groups has several inputs; leave it out")
    return rows[0]
