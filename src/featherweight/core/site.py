"""Where: parameters, selected by name patterns and printed before use."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import Tensor, nn

from featherweight.core.errors import SelectionError


@dataclass(frozen=True)
class Sites:
    """Parameters whose name matches a pattern of ``include`` and none of ``exclude`` (shell wildcards).

    ``min_dims`` leaves out tensors with fewer dimensions: 2 selects weights and passes over biases and norms. A tied
    weight has several names; it is selected once, under its first, by any of them. Where nothing matches, a stage
    raises, unless the sites are ``optional``: biases, of models that may have none.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    min_dims: int = 0
    optional: bool = False

    def matches(self, name: str, tensor: Tensor) -> bool:
        def hit(patterns: Iterable[str]) -> bool:
            return any(fnmatchcase(name, pattern) for pattern in patterns)

        return tensor.ndim >= self.min_dims and hit(self.include) and not hit(self.exclude)

    def __str__(self) -> str:
        text = ", ".join(self.include) or "nothing"
        if self.exclude:
            text += " but not " + ", ".join(self.exclude)
        return text + (f" ({self.min_dims} or more dimensions)" if self.min_dims else "")


CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""Modules that only hold others, and are no blocks."""

WEIGHTS = Sites(min_dims=2)
"""Every weight matrix, kernel and embedding; no biases, no norms."""


def parameters(model: nn.Module) -> Iterator[tuple[str, tuple[str, ...], nn.Parameter]]:
    """(first name, all names, parameter) of every parameter, tied ones once."""
    names: dict[int, list[str]] = {}
    tensors: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        tensors[id(parameter)] = parameter
    for key, all_names in names.items():
        yield all_names[0], tuple(all_names), tensors[key]


def select(model: nn.Module, sites: Sites) -> dict[str, nn.Parameter]:
    """The parameters at ``sites`` by their first name.

    Raises ``SelectionError`` where nothing matches sites that are not optional.
    """
    found = {
        first: parameter
        for first, names, parameter in parameters(model)
        if any(sites.matches(name, parameter) for name in names)
    }
    if not found and not sites.optional:
        known = [first for first, _, _ in parameters(model)]
        if not known:
            raise SelectionError(f"no parameter matches {sites}: the model has no parameters")
        near = get_close_matches(" ".join(sites.include[:1]), known, n=3, cutoff=0.3) or known[:5]
        raise SelectionError(f"no parameter matches {sites}; the model has {len(known)}, for example {', '.join(near)}")
    return found


def block_of(model: nn.Module, name: str, patterns: Sequence[str] = ()) -> str:
    """The path of the block that a parameter is in: of the outermost module around its layer that matches a pattern.

    Without patterns, of the outermost one whose class the model has several of, and which is no mere container:
    residual blocks, inverted residuals, transformer layers. Where there is none, its layer is a block by itself.
    """
    layer = name.rpartition(".")[0]
    parts = layer.split(".")
    around = [".".join(parts[:depth]) for depth in range(1, len(parts))]
    if patterns:
        found = [path for path in (*around, layer) if any(fnmatchcase(path, pattern) for pattern in patterns)]
    else:
        counts = Counter(type(module) for module in model.modules())
        modules = {path: model.get_submodule(path) for path in around}
        found = [p for p, module in modules.items() if counts[type(module)] > 1 and not isinstance(module, CONTAINERS)]
    return found[0] if found else layer
