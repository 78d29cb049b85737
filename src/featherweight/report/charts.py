"""Charts: from numbers to SVG text. No text of anyone goes in, so there is nothing to escape; colours are the page's.

Widths are in hundredths of the space that a chart is given. Numbers stand beside every chart as text, so charts are
hidden from screen readers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log

from markupsafe import Markup

WIDTH = 100.0


def bars(values: Sequence[tuple[str, float]], longest: float, height: float = 6.0) -> Markup:
    """A bar for each (class, value) below each other; ``longest`` is as long as the chart is wide.

    Any value above zero gets a bar that can be seen.
    """
    rows = []
    for number, (kind, value) in enumerate(values):
        if not isfinite(value) or value <= 0 or longest <= 0:
            continue
        width = max(0.5, min(WIDTH, WIDTH * value / longest))
        rows.append(
            f'<rect class="{_word(kind)}" y="{number * (height + 1):g}" width="{width:.3f}" height="{height:g}"/>'
        )
    tall = len(values) * (height + 1) - 1
    return _svg("bars", tall, "".join(rows))


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis of ratios, with one in it."""

    least: float
    most: float

    @classmethod
    def around(cls, values: Sequence[float]) -> "Axis":
        """An axis that holds ``values`` and 1, with a little room on both sides."""
        found = [value for value in values if isfinite(value) and value > 0]
        low, high = min([*found, 1.0]), max([*found, 1.0])
        room = max((high / low) ** 0.08, 1.02)
        return cls(low / room, high * room)

    def at(self, value: float) -> float:
        share = log(value / self.least) / log(self.most / self.least)
        return WIDTH * min(1.0, max(0.0, share))


def interval(low: float, middle: float, high: float, axis: Axis, height: float = 14.0, *, sure: bool = True) -> Markup:
    """A ratio with its interval, beside the line of 1: no change.

    Colours of better and worse are for intervals beside 1 that are ``sure``, those of a stated coverage.
    """
    if not all(isfinite(value) and value > 0 for value in (low, middle, high)):
        return _svg("interval", height, "")
    one, start, mid, end = (axis.at(value) for value in (1.0, low, middle, high))
    kind = "better" if sure and low > 1 else "worse" if sure and high < 1 else "level"
    half = height / 2
    drawn = (
        f'<line class="one" x1="{one:.3f}" x2="{one:.3f}" y1="0" y2="{height:g}"/>'
        f'<line class="{kind}" x1="{start:.3f}" x2="{end:.3f}" y1="{half:g}" y2="{half:g}"/>'
        f'<line class="{kind} middle" x1="{mid:.3f}" x2="{mid:.3f}" y1="{half - 4:g}" y2="{half + 4:g}"/>'
    )
    return _svg("interval", height, drawn)


def _word(kind: str) -> str:
    if not kind.isidentifier():
        raise ValueError(f"{kind!r} is no class of a chart")
    return kind


def _svg(kind: str, height: float, drawn: str) -> Markup:
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 {WIDTH:g} {height:g}" height="{height:g}" preserveAspectRatio="none" '
        f'aria-hidden="true" focusable="false">{drawn}</svg>'
    )
