"""What recipes gave on their stand-ins: small committed records, each measured again by one command."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

from featherweight.core.errors import FormatError

EQUAL_ERROR: Mapping[str, float] = {"mnist-lenet300": 98.1, "mnist-lenet5": 99.2}
"""Task -> accuracy in percent from which methods are ordered by their bytes: 1.9 and 0.80 % error."""


@dataclass(frozen=True)
class Measurement:
    """One run of a paper's recipe on a task.

    digest           of the recipe's settings (``Recipe.digest``): a recipe that has changed since has another
    bytes_before     of the dense model as safetensors
    bytes            of the ``.fwt`` file
    before, after    quality on the evaluation data of the dense model and of the compressed one, in ``unit``
    samples          of the evaluation data
    p_value          McNemar's, that both are equally good; ``None`` where scores are not 0 or 1
    epochs, seeds    of all stages
    seconds          the whole run, on ``threads`` threads of a machine that may have been busy: no figure of speed
    """

    paper: str
    task: str
    digest: str
    bytes_before: int
    bytes: int
    metric: str
    unit: str
    before: float
    after: float
    samples: int
    p_value: float | None
    epochs: int
    seeds: tuple[int, ...]
    seconds: int
    threads: int
    torch: str

    @property
    def name(self) -> str:
        """What its record is called."""
        return f"{self.paper}.{self.task}.json"

    @property
    def command(self) -> str:
        return f"featherweight reproduce {self.paper} --task {self.task}"

    @property
    def at_equal_error(self) -> bool | None:
        """Whether it is within the error at which methods are compared; ``None`` where the task has no such limit."""
        return self.after >= EQUAL_ERROR[self.task] if self.task in EQUAL_ERROR else None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def parse(cls, text: str) -> "Measurement":
        """Read a record. Raises ``FormatError`` where it is none."""
        try:
            record = json.loads(text)
            return cls(**{**record, "seeds": tuple(record["seeds"])})
        except (ValueError, TypeError, KeyError) as error:
            raise FormatError(f"this is no record of a measurement ({error}); measure it again") from error


def measurements() -> list[Measurement]:
    """All committed ones: by task, then those within the task's limit, then by bytes."""
    found = list(_read())
    return sorted(found, key=lambda each: (each.task, each.at_equal_error is False, each.bytes, each.paper))


def _read() -> Iterator[Measurement]:
    for entry in files("featherweight.papers").joinpath("measured").iterdir():
        if entry.name.endswith(".json"):
            yield Measurement.parse(entry.read_text(encoding="utf-8"))
