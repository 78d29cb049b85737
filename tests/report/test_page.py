"""The page says what the record says, lets no text through as markup, and loads nothing."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html import escape
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch import nn

from featherweight.compression import compress
from featherweight.core.errors import FeatherweightError
from featherweight.core.stage import Claim, Recipe, Reference, Stage
from featherweight.core.task import Example, Task
from featherweight.engines.compare import Comparison, Setting, Side, label
from featherweight.engines.engine import Precision, Settings
from featherweight.engines.machine import Machine
from featherweight.engines.measurement import Measurement, Plan, Timing
from featherweight.engines.parity import Parity
from featherweight.engines.process import Memory
from featherweight.report import figures, short
from featherweight.report.page import MOST_BYTES, page, range_of_speed, sizes
from featherweight.report.report import Method, Report, of_file, of_result
from featherweight.schemes.uniform import Uniform

HOSTILE = "<script>alert(1)</script>\"'&\u202e{{ 7 * 7 }}"
VOID = {"meta", "rect", "line", "br", "link", "img", "input", "hr", "wbr"}
EMPTY = {"rect", "line"}


@dataclass
class Seen(HTMLParser):
    """Text by tag, attributes, and whether tags are balanced."""

    open: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)
    region: str = ""
    cell: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag not in VOID:
            self.open.append(tag)
        if given.get("role") == "region":
            self.region = given["aria-label"] or ""
        if tag == "tr":
            self.tables.setdefault(self.region, []).append([])
        if tag in {"td", "th"}:
            self.tables[self.region][-1].append("")
            self.cell = True

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in EMPTY
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"
        self.cell = self.cell and tag not in {"td", "th"}

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)
        if self.cell:
            self.tables[self.region][-1][-1] += data


def seen(text: str) -> Seen:
    found = Seen()
    found.feed(text)
    found.close()
    assert found.open == []
    return found


def task(name: str = "small") -> Task:
    def model() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))

    def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
        inputs = torch.randn(300, 16, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            return [(inputs, model()(inputs).argmax(1))]

    return Task(
        name, architecture=model, model=model, example=lambda: Example((torch.zeros(1, 16),)), evaluation=data,
        chosen=lambda: torch.arange(300) % 3 == 0, unseen=False,
    )  # fmt: skip


def timing(label: str, rounds: tuple[float, ...]) -> Timing:
    engine = label.partition(" ")[0]
    loads, memory = (0.01,) * len(rounds), Memory(peak=9_000_000, model=5_000_000)
    return Timing(
        label, engine, "1.2", Settings(), 4321, 99, rounds[0], rounds[0] * 2, rounds[0], rounds, loads, memory
    )


def comparison(name: str = "small", rounds: int = 9) -> Comparison:
    machine = Machine("A processor", 2, 8 * 10**9, "An <os>", "3.11", "2.13")
    labels = [label("pytorch", side) for side in Side]
    slow = tuple((3.0, 3.3, 2.7)[i % 3] for i in range(rounds))
    timings = (timing(labels[0], slow), timing(labels[1], (1.5,) * rounds))
    found = Measurement(labels[0], 1, timings, (0.5,), False, Plan(rounds=rounds), machine)
    alike = dict.fromkeys(labels, Parity(0.0, float("inf"), 1.0, 64))
    return Comparison(
        name, ("pytorch",), Precision.FLOAT32, "evaluation", (Setting(1, 1, found, alike),), (), ("an <engine>",)
    )


RECIPE = Recipe(
    "four bits", (Stage("quantize", {"*.weight": Uniform(4)}),), Reference("T", "A and B", 2020, "2001.00001"),
    ("other <bits>",),
)  # fmt: skip


@pytest.fixture(scope="module")
def report() -> Report:
    return of_result(compress(task(), RECIPE), [comparison()])


def test_rows_add_up_and_are_the_ledgers(report: Report) -> None:
    found = seen(page(report)).tables["Size by layer"]
    body = found[1:-1]
    before, after = ([int(row[column].replace(",", "").replace("new", "0")) for row in body] for column in (2, 3))
    assert (sum(before), sum(after)) == (report.summary.bytes_before, report.summary.bytes_after)
    assert [int(text.replace(",", "")) for text in found[-1][2:4]] == [sum(before), sum(after)]
    rows = report.summary.ledger.rows
    assert [row[0] for row in body[: len(rows)]] == [row.name for row in rows]
    assert [row[4] for row in body[: len(rows)]] == [f"{row.bits_per_weight:.2f}" for row in rows]
    short = sizes(report, most=1)
    assert sum(row.after for row in short) == report.summary.bytes_after and len(short) == 3
    assert sum(row.before or 0 for row in short) == report.summary.bytes_before


def test_quality_is_the_records_and_the_honest_one_leads(report: Report) -> None:
    text = " ".join(" ".join(seen(page(report)).text).split())
    told = report.summary
    assert told.rest is not None and told.standing is not None and told.rest.samples == 200
    for each in (told.rest, told.standing):
        assert f"{figures.quality(each.before, '%')} → {figures.quality(each.after, '%')}" in text
        assert f"{each.lost:,} lost, {each.won:,} won" in text and each.p_value is not None
        assert figures.p_value(each.p_value) in text
    assert text.index("200 samples") < text.index("300 samples")
    assert "Seen in training" in text and "Seen in training" not in page(
        replace(report, summary=replace(told, unseen=True))
    )


def test_errors_are_those_of_the_weights(report: Report) -> None:
    rows = seen(page(report)).tables["Error by layer"][1:]
    parent = task().model()
    student = compress(task(), RECIPE).model
    for name, _, told in rows:
        w, v = (model.get_parameter(name).detach().double() for model in (parent, student))
        assert told == figures.relative(float((w - v).norm() / w.norm()))
    values = [float(row[2].removesuffix(" %")) for row in rows]
    assert values == sorted(values, reverse=True) and values[0] > 0 == values[-1]


def test_speed_is_shown_only_where_it_was_measured(report: Report) -> None:
    found = seen(page(report))
    assert "Note. an <engine>." in " ".join(" ".join(found.text).split())
    (row,) = found.tables["Latency before and after"][1:]
    assert row[:6] == ["pytorch 1.2", "1", "1", "3 / 6", "1.5 / 3", "2.00× (1.80 to 2.20)"]
    assert range_of_speed(report.comparisons) == ("2.00×", "as fast, 95 % interval 1.80 to 2.20")
    assert 'class="better"' in page(report)
    without = page(replace(report, comparisons=()))
    found = seen(without)
    assert "Latency before and after" not in found.tables and "×" not in "".join(
        text for text in found.text if "×" in text and "as fast" in text
    )
    assert "featherweight measure model.fwt --save measurement.json" in found.text
    assert range_of_speed(()) is None


def test_too_few_rounds_are_no_interval(report: Report) -> None:
    """Of fewer than six rounds, no interval is said to cover 95 %, and none is coloured as a gain."""
    few = replace(report, comparisons=(comparison(rounds=5),))
    found = seen(page(few))
    text = " ".join(" ".join(found.text).split())
    assert "5 rounds are too few for an interval of 95 %" in text and "(95 %)" not in text
    assert "as fast, rounds too few for a 95 % interval spread from 1.80 to 2.20" in text
    assert 'class="better"' not in page(few)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (0.0, "0 %"), (float("nan"), "not a number"), (3.5612, "356 %"), (0.99951, "100 %"), (0.78123, "78.1 %"),
        (12.3456, "1,235 %"), (1e-7, "1.00e-05 %"),
    ],
)  # fmt: skip
def test_errors_in_words(error: float, told: str) -> None:
    assert figures.relative(error) == told


def test_long_times_and_equal_outputs_are_readable(report: Report) -> None:
    found = seen(page(report)).tables["Exports before and after"][1]
    assert found[5] == "identical, 100.0 % same class → identical, 100.0 % same class"
    assert (figures.milliseconds(1234.5), figures.milliseconds(999.6)) == ("1,234", "1,000")
    assert figures.sentence("left to LayerNorm") == "Left to LayerNorm" and figures.sentence("") == ""


def test_text_of_others_is_text(report: Report) -> None:
    rows = tuple(replace(row, name=f"{HOSTILE}{i}", code=HOSTILE) for i, row in enumerate(report.summary.ledger.rows))
    hostile = replace(
        report,
        name=HOSTILE,
        errors={HOSTILE: 0.5},
        changes=(HOSTILE,),
        missing={"quality": HOSTILE},
        method=Method(HOSTILE, Reference(HOSTILE, HOSTILE, 1, HOSTILE), (Claim(*[HOSTILE] * 3),), (HOSTILE,), HOSTILE),
        summary=replace(
            report.summary, task=HOSTILE, recipe=HOSTILE, left_alone={HOSTILE: HOSTILE},
            ledger=replace(report.summary.ledger, rows=rows), standing=None, rest=None,
        ),
    )  # fmt: skip
    text = page(hostile)
    found = seen(text)
    assert not {"script", "iframe", "img"} & {tag for tag, _ in found.tags}
    assert "\u202e" not in text and "49" not in " ".join(found.tables["Error by layer"][1])
    assert "<script>alert(1)</script>\"'&\\u202e{{ 7 * 7 }}" in found.tables["Error by layer"][1][0]
    assert not any(key.startswith("on") for _, given in found.tags for key in given)


def test_nothing_is_loaded_and_everything_has_a_name(report: Report) -> None:
    text = page(report)
    found = seen(text)
    assert not any("src" in given or tag in {"link", "script"} for tag, given in found.tags)
    hrefs = [given["href"] or "" for _, given in found.tags if "href" in given]
    assert all(each.startswith(("#", "https://arxiv.org/abs/")) for each in hrefs)
    ids = [given["id"] for _, given in found.tags if "id" in given]
    assert len(ids) == len(set(ids)) and {each[1:] for each in hrefs if each[0] == "#"} <= set(ids)
    assert "url(" not in text and "@import" not in text
    count = [tag for tag, _ in found.tags].count
    assert count("table") == count("caption") and count("h1") == 1
    assert len(text.encode()) < MOST_BYTES


def test_a_page_of_many_tensors_stays_small(report: Report) -> None:
    row = report.summary.ledger.rows[0]
    rows = tuple(replace(row, name=f"{'block.' * 12}{i}.weight") for i in range(3000))
    ledger = replace(report.summary.ledger, rows=rows)
    many = replace(
        report,
        before={each.name: 9 for each in rows},
        errors={each.name: 0.1 for each in rows},
        summary=replace(report.summary, ledger=ledger, left_alone={each.name: "why" for each in rows}),
    )
    assert len(page(many).encode()) < MOST_BYTES
    with pytest.raises(FeatherweightError, match="too long for one page"):
        page(replace(report, name="x" * MOST_BYTES))


def test_a_file_gives_the_page_of_its_result(report: Report) -> None:
    result = compress(task(), RECIPE)
    found = of_file("small.fwt", result.encode(), task(), comparisons=[comparison()])
    assert found.claims is not None and found.claims.agrees
    assert (found.summary.standing, found.summary.rest) == (report.summary.standing, report.summary.rest)
    assert (found.summary.ledger, found.errors, found.work) == (report.summary.ledger, report.errors, report.work)
    with pytest.raises(FeatherweightError, match="is of task 'other'"):
        of_file("small.fwt", result.encode(), task(), comparisons=[comparison("other")])


def test_another_parent_is_told() -> None:
    """A file whose parent scored otherwise than the one here: pairs and errors would mislead."""
    result = compress(task(), RECIPE)
    assert result.claims is not None
    for parent, other in ((result.claims.parent, False), (result.claims.parent - 1, False), (250.0, True)):
        data = replace(result, claims=replace(result.claims, parent=parent, lost=300)).encode()
        found = of_file("small.fwt", data, task())
        assert found.claims is not None and found.claims.same_parent is not other and found.other_parent is other
        text = page(found)
        assert ("Another parent." in text, "The parent here is another" in text) == (other, other)
        told = [line for line in short.report(found) if isinstance(line, str)]
        assert (short.OTHER_PARENT in told) is other
    bare = of_file("small.fwt", result.encode(), replace(task(), evaluation=None, chosen=None))
    assert bare.claims is not None and bare.claims.same_parent is None and not bare.other_parent


def test_what_was_not_measured_says_so(report: Report) -> None:
    bare = replace(task(), evaluation=None, chosen=None)
    found = of_file("small.fwt", compress(bare, RECIPE).encode(), bare)
    text = " ".join(" ".join(seen(page(found)).text).split())
    assert "the task has neither evaluation data nor `evaluate`" in text and "featherweight verify small.fwt" in text


def test_a_result_writes_its_page(tmp_path: Path) -> None:
    result = compress(task(), RECIPE)
    size = result.report(tmp_path / "report.html", [comparison()])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert size == len(text.encode()) and text == page(of_result(result, [comparison()]))


def test_the_template_is_in_the_package() -> None:
    assert files("featherweight.report").joinpath("page.html.jinja").is_file()


FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
)  # fmt: skip


@pytest.fixture
def browse(tmp_path: Path) -> Callable[[str], tuple[str, str]]:
    """The DOM of a page after its scripts ran, and what the browser logged."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not on PATH")

    def run(text: str) -> tuple[str, str]:
        (tmp_path / "page.html").write_text(text, encoding="utf-8")
        place = f"--user-data-dir={tmp_path / 'profile'}"
        command = [chromium, *FLAGS, place, "--dump-dom", (tmp_path / "page.html").as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        return done.stdout, done.stderr

    return run


@pytest.mark.parametrize("width", [320, 375])
def test_a_phone_does_not_scroll_sideways(report: Report, width: int, browse: Callable[[str], tuple[str, str]]) -> None:
    """A frame as wide as a phone; the scroll bar may take 15 of its pixels."""
    name = "a_very_long_name_of_a_module." * 6
    wide = replace(report, name=name, errors={name: 0.5})
    for each in (report, wide):
        frame = f'<iframe srcdoc="{escape(page(each))}" style="width:{width}px;height:800px;border:0"></iframe>'
        script = "onload = () => document.title = frames[0].document.documentElement.scrollWidth"
        dom, log = browse(f"<!DOCTYPE html><title></title>{frame}<script>{script}</script>")
        assert f"<title>{width}</title>" in dom or f"<title>{width - 15}</title>" in dom, dom[:200]
        assert "CONSOLE" not in log
    _, log = browse(page(report))
    assert "CONSOLE" not in log
