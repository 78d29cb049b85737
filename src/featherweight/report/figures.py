"""Numbers as people read them."""

from math import isnan


def size(count: int) -> str:
    """Bytes in full, and in kB or MB where that is shorter to read."""
    full = f"{count:,} bytes"
    for unit, factor in (("GB", 1000**3), ("MB", 1000**2), ("kB", 1000)):
        if count >= factor:
            return f"{count / factor:.4g} {unit} ({full})"
    return full


def quality(value: float, unit: str) -> str:
    value += 0.0  # no minus before a zero
    return f"{value:.4g} {unit}".rstrip() if unit != "%" else f"{value:.2f} %"


def difference(value: float, unit: str) -> str:
    value += 0.0  # no minus before a zero
    return f"{value:+.2f} points" if unit == "%" else f"{value:+.4g} {unit}".rstrip()


def probability(value: float) -> str:
    return f"{value:.3g}" if value >= 1e-4 else "< 0.0001"


def share(part: float) -> str:
    return f"{100 * part:.1f} %"


def short_size(count: int) -> str:
    """Bytes in kB or MB alone."""
    return size(count).partition(" (")[0]


def relative(error: float) -> str:
    """A relative error in per cent, to three figures: errors of narrow floats are small, and not nothing."""
    if isnan(error):
        return "not a number"
    percent = 100 * error
    return "0 %" if percent == 0 else f"{percent:,.0f} %" if percent >= 99.95 else f"{percent:#.3g} %"


def milliseconds(value: float) -> str:
    """Three digits are more than a machine repeats."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def sentence(text: str) -> str:
    """The text with a capital first letter; all others stay as they are, names of classes among them."""
    return text[:1].upper() + text[1:]


def p_value(value: float) -> str:
    """``= 0.0017`` or ``< 0.0001``, to stand behind a p."""
    told = probability(value)
    return told if told.startswith("<") else f"= {told}"
