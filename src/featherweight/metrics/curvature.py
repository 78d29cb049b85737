"""Second derivatives of the loss, propagated back through a network as gradients are."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from featherweight.core.compressed import Compressed
from featherweight.core.errors import TaskError
from featherweight.core.metric import Diagonal, Metric
from featherweight.core.stage import MetricRule
from featherweight.core.tap import FUNCTIONS, Operator
from featherweight.core.task import Task, calibration_batches, evaluating, tensors_of
from featherweight.metrics.diagonal import arguments

PASSING = frozenset({
    "flatten", "reshape", "view", "permute", "transpose", "movedim", "squeeze", "unsqueeze", "contiguous", "expand",
    "__getitem__", "chunk", "split", "unbind", "dropout", "sum", "clone", "to", "float", "identity", "pad",
    "max_pool1d", "max_pool2d", "max_pool2d_with_indices", "boolean_dispatch", "amax", "neg", "__neg__", "sub",
    "__sub__", "__rsub__",
})  # fmt: skip
"""Operations whose results are operands or sums of them, up to signs: squared derivatives are theirs, 0 and 1."""


@dataclass(frozen=True)
class BackpropagatedCurvature(MetricRule):
    """The diagonal ``h_k = ∂²E/∂w_k²`` of the mean loss ``E``, by one backward pass: optimal brain damage's curvature.

    LeCun, Denker and Solla 1990 (NIPS 2), section 2.2, in the Levenberg-Marquardt form, which is never negative. For
    units ``a_i = Σ_j w_ij x_j`` and ``x_i = f(a_i)``

    - at the outputs, ``∂²E/∂x²`` of ``loss`` (``None``: the task's own), output by output,
    - ``∂²E/∂a_i² = f'(a_i)² ∂²E/∂x_i²``, without the term ``f''(a_i) ∂E/∂x_i``,
    - ``∂²E/∂x_j² = Σ_i w_ij² ∂²E/∂a_i²``, and ``∂²E/∂w_ij² = ∂²E/∂a_i² x_j²``, summed over all uses of a shared weight.

    That is back-propagation with squared Jacobians, so any operation that is linear in each operand, or a function of
    each entry, has its rule; others raise ``TaskError``. Cross terms between units of a layer are dropped: it is the
    Gauss-Newton diagonal where one path leads from a weight to each output, as in networks of one hidden layer, and
    another elsewhere (:class:`featherweight.metrics.diagonal.Curvature` estimates the true one). Batches are of samples
    that the model treats apart, in evaluation mode. Like all diagonals, it is raised by a millionth of its mean.
    """

    loss: Callable[[Any, Any], Tensor] | None = None
    batches: int = 32

    def measure(self, student: Compressed, names: Sequence[str], task: Task) -> dict[str, Metric]:
        loss = self.loss or task.loss
        if loss is None:
            raise TaskError(f"second derivatives need a loss, and task {task.name!r} has none; take squared_error")
        leaves = {name: student.weight(name).detach().clone().requires_grad_() for name in names}
        total = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        count = 0
        with evaluating(student), torch.enable_grad():
            for there in calibration_batches(student, task, self.batches):
                with squared_jacobians():
                    outputs = torch.func.functional_call(student.base, leaves, *arguments(there))
                count += 1
                for each, h in _at_outputs(outputs, there, loss):
                    found = torch.autograd.grad(each, list(leaves.values()), h, retain_graph=True, allow_unused=True)
                    for name, curvature in zip(leaves, found, strict=True):
                        if curvature is not None:
                            total[name] += curvature
        if not all(bool(torch.isfinite(each).all()) for each in total.values()):
            raise TaskError(f"derivatives at the calibration data of task {task.name!r} are not finite; clean the data")
        means = {name: each.clamp(min=0) / count for name, each in total.items()}
        return {name: Diagonal(mean + 1e-6 * mean.mean().clamp(min=1e-30)) for name, mean in means.items()}


def squared_error(outputs: Any, batch: Any) -> Tensor:
    """Half the squared error of the outputs, whose second derivatives are 1 whatever the targets: 0 stands for them."""
    return torch.stack([each.square().sum() / (2 * len(each)) for each in tensors_of(outputs)]).sum()


def _at_outputs(outputs: Any, batch: Any, loss: Callable[[Any, Any], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """``∂²E/∂x²`` of every entry of the outputs: one backward pass for each index of the last dimension."""
    for each in tensors_of(outputs):
        if not each.requires_grad:
            continue
        if not isinstance(outputs, Tensor):
            raise TaskError("second derivatives of a loss need a model with one tensor of outputs; use Curvature")
        y = each.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(y, batch), y, create_graph=True)
        h = torch.zeros_like(y)
        if gradient.requires_grad:
            for column in range(y.shape[-1]):
                (second,) = torch.autograd.grad(gradient[..., column].sum(), y, retain_graph=True)
                h[..., column] = second[..., column]
        yield each, h


@contextmanager
def squared_jacobians() -> Iterator[None]:
    """Within the block operations are recorded so that backward passes carry second derivatives, not gradients."""
    with _Mode():
        yield


class _Mode(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        match FUNCTIONS.get(func):
            case Operator.LINEAR | Operator.CONVOLVE:
                x, weight, *rest = args
                bias = rest[0] if rest else kwargs.pop("bias", None)
                return _bilinear(lambda a, b, c: func(a, b, c, *rest[1:], **kwargs), x, weight, bias)
            case Operator.MATMUL | Operator.MULTIPLY if all(isinstance(each, Tensor) for each in args[:2]):
                product = torch.matmul if FUNCTIONS[func] is Operator.MATMUL else torch.mul
                return _bilinear(lambda a, b, c: product(a, b), args[0], args[1], None)
            case Operator.RELU | Operator.RELU6 | Operator.ACTIVATE:
                return _Entrywise.apply(lambda x: func(x.clone(), *args[1:], **kwargs), args[0])  # type: ignore[no-untyped-call]
            case Operator.MEAN | Operator.POOL:
                return _averaged(func, args, kwargs)
            case Operator.NORMALIZE if func is F.batch_norm and not kwargs.get("training", False):
                return _normalized(*args, **kwargs)
            case Operator.ADD | Operator.CAT:
                return func(*args, **kwargs)
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        if isinstance(result, Tensor) and result.requires_grad and name not in PASSING:
            raise TaskError(f"second derivatives have no rule for {name}; use Curvature, which asks for none")
        return result


Bilinear = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class _Bilinear(torch.autograd.Function):
    """``y = f(x, w) + b``, linear in ``x`` and in ``w``: squared derivatives are those of ``f(x², w²) + b``."""

    @staticmethod
    def forward(ctx: Any, function: Bilinear, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        ctx.function, ctx.operands = function, (x.detach(), w.detach(), None if bias is None else bias.detach())
        return function(x, w, bias)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
        x, w, bias = ctx.operands
        with torch.enable_grad():
            squares = [x.square().requires_grad_(), w.square().requires_grad_()]
            offset = None if bias is None else bias.clone().requires_grad_()
            y = ctx.function(*squares, offset)
            found = torch.autograd.grad(y, squares if offset is None else [*squares, offset], h)
        return None, found[0], found[1], None if offset is None else found[2]


def _bilinear(function: Bilinear, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = _Bilinear.apply(function, x, w, bias)  # type: ignore[no-untyped-call]
    return result


class _Entrywise(torch.autograd.Function):
    """``y_i = f(x_i)``: the squared derivative is ``f'(x_i)²``."""

    @staticmethod
    def forward(ctx: Any, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        ctx.function, ctx.x = function, x.detach()
        return function(x)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[None, Tensor]:
        with torch.enable_grad():
            x = ctx.x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(ctx.function(x).sum(), x)
        return None, h * slope.square()


class _Scaled(torch.autograd.Function):
    """``x`` itself, whose curvature is taken ``factor`` times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor, None]:
        return h * ctx.factor, None


def _averaged(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Means over ``k`` entries: derivatives of ``1/k``, squared ``1/k`` of what they are."""
    y: Tensor = func(*args, **kwargs)
    each = y.numel() / args[0].numel()
    probe = torch.ones_like(args[0]).requires_grad_()
    (shares,) = torch.autograd.grad(func(probe, *args[1:], **kwargs).sum(), probe)
    if not bool((shares - each).abs().max() < 1e-5 * each):
        raise TaskError("second derivatives have no rule for windows that overlap or are padded; use Curvature")
    result: Tensor = _Scaled.apply(y, each)  # type: ignore[no-untyped-call]
    return result


def _normalized(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None = None, bias: Tensor | None = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Batch norm with running statistics: a product of each channel with a scale, and an offset."""
    if training:
        raise TaskError("second derivatives need norms in evaluation mode, with running statistics")
    channels = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
    scale = (var + eps).rsqrt().reshape(channels)
    centred = x - mean.reshape(channels)
    inverse = torch.ones_like(var) if weight is None else weight

    def function(a: Tensor, b: Tensor, c: Tensor | None) -> Tensor:
        y = a * b.reshape(channels)
        return y if c is None else y + c.reshape(channels)

    normal = _bilinear(function, centred, scale.flatten(), None)
    return _bilinear(function, normal, inverse, bias)
