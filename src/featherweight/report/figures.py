"""Numbers as people read them."""


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
