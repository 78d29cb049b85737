"""``papers``, ``tasks``, ``reproduce``, the help, and the cards."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from featherweight import __version__
from featherweight.cli.sizes import parse_size
from featherweight.papers import PAPERS, SYSTEMS
from featherweight.papers.measurement import Measurement
from featherweight.report.card import card, system_card
from featherweight.tasks import BUILT_IN

from .commands import run

COMMANDS = ("compress", "inspect", "verify", "unpack", "papers", "reproduce", "tasks")
CARDS = Path(__file__).parents[2] / "docs" / "papers"


@pytest.mark.parametrize("arguments", [("--help",), *((name, "--help") for name in COMMANDS)])
def test_help_needs_no_torch(arguments: tuple[str, ...]) -> None:
    code = (
        "import sys\n"
        "from featherweight.cli.main import app\n"
        "try:\n"
        "    app(sys.argv[1:], prog_name='featherweight')\n"
        "finally:\n"
        "    heavy = {'torch', 'numpy', 'sklearn', 'safetensors', 'constriction'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "featherweight " in done.stdout
    if len(arguments) > 1:
        assert f"featherweight {arguments[0]} " in done.stdout.partition("Examples:")[2]


def test_version_and_unknown_commands() -> None:
    assert run("--version").out == f"featherweight {__version__}\n"
    assert run("compres").code == 2
    assert run("verify").code == 2


def test_tasks_are_listed() -> None:
    assert [each["name"] for each in run("tasks", "--json").json] == list(BUILT_IN)
    text = run("tasks").out
    assert all(name in text for name in BUILT_IN) and "72,842" in text


def test_tasks_are_listed_where_an_extra_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    parameters = {each["name"]: each["parameters"] for each in run("tasks", "--json").json}
    assert parameters.pop("minilm") is None and all(parameters.values())
    text = run("tasks").out
    assert "not installed" in text and "featherweight[models]" in text


def test_papers_are_found_by_words() -> None:
    found = run("papers", "--json").json
    assert [each["name"] for each in found] == [*PAPERS, *SYSTEMS]
    assert {"title", "authors", "year", "claims", "deviations", "tasks", "idea"} <= set(found[0])
    some = run("papers", "HUFFMAN han", "--json").json
    assert "deep-compression" in [each["name"] for each in some] and len(some) < len(found)
    none = run("papers", "no such words")
    assert none.code == 0 and none.out == "" and "no paper matches" in none.err
    assert run("papers", "no such words", "--json").json == []


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_tables_lose_nothing_in_narrow_terminals(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    ran = run("papers", "deep-compression")
    assert max(map(len, ran.out.splitlines())) <= int(columns) and "…" not in ran.out
    assert "\x1b" not in ran.out


@pytest.mark.parametrize("name", PAPERS)
def test_a_card_tells_all_of_a_paper(name: str) -> None:
    paper = PAPERS[name]()
    text = card(paper)
    assert text == card(paper) and " at 0x" not in text
    assert text.startswith(f"# {name}\n") and paper.reference.title in text and paper.idea in text
    assert all(claim.statement.replace("|", "\\|") in text for claim in paper.claims)
    assert all(each in text for each in paper.deviations)
    assert f"featherweight reproduce {name} --task {paper.tasks[0]}" in text


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_systems_card_tells_what_is_here_and_what_was_checked(name: str) -> None:
    system = SYSTEMS[name]
    ran = run("papers", name, "--card", "--json").json
    assert ran["card"] == system_card(system) and ran["title"] == system.reference.title
    assert system.parts and system.checked and system.unchecked and system.successor and system.read
    assert all(part.what in ran["card"] and part.where in ran["card"] for part in system.parts)
    assert run("papers", name).out.count("a system")
    reproduced = run("reproduce", name)
    assert reproduced.code == 1 and f"featherweight papers {name} --card" in reproduced.err


@pytest.mark.skipif(not CARDS.is_dir(), reason="docs/papers is not there")
def test_files_that_systems_point_to_are_there() -> None:
    root = CARDS.parents[1]
    for system in SYSTEMS.values():
        for text in (*(part.where for part in system.parts), *system.checked):
            for name in re.findall(r"(?:tests|benchmarks)/[\w/.-]+\w", text):
                assert (root / name).exists(), name
            for name in re.findall(r"(?<!tests/)(?:engines|activations|schemes|graph|search)/\w+\.py", text):
                assert (root / "src" / "featherweight" / name).exists(), name
            for name in re.findall(r"recipes? ([\w-]+)", text):
                assert name in PAPERS


def test_cards_on_the_command_line() -> None:
    assert run("papers", "deep-compression", "--card").out == card(PAPERS["deep-compression"]())
    assert run("papers", "--card").code == 2
    assert run("papers", "deep", "--card").code == 1


@pytest.mark.skipif(not CARDS.is_dir(), reason="docs/papers is not there")
def test_the_cards_in_the_docs_are_the_generated_ones() -> None:
    written = {path.stem: path.read_text(encoding="utf-8") for path in CARDS.glob("*.md")}
    systems = {name: system_card(system) for name, system in SYSTEMS.items()}
    assert written == {name: card(make()) for name, make in PAPERS.items()} | systems, "run scripts/cards"


def test_reproduce_sets_claims_beside_our_figures(digits_model: nn.Module, user_task: str, tmp_path: Path) -> None:
    path = tmp_path / "digits.fwt"
    ran = run("reproduce", "gptq", "--task", "digits", "-o", path, "--json")
    assert ran.code == 0, ran.err
    found = ran.json
    assert found["paper"]["name"] == "gptq" and found["paper"]["claims"] and found["paper"]["deviations"]
    assert found["ours"]["bytes"] == path.stat().st_size and found["ours"]["quality"]["samples"] == 599
    text = run("reproduce", "gptq", "--task", user_task)
    assert text.code == 0 and "the paper claims" in text.out and "deviation: " in text.out
    assert run("reproduce", "gptq", "--task", "digits", "-o", path).code == 1
    assert run("reproduce", "nothing").code == 1


@pytest.mark.parametrize(
    ("text", "size"),
    [("17kB", 17_000), ("17KiB", 17_408), ("17200", 17_200), ("1.5MB", 1_500_000), ("2 GiB", 1 << 31), ("0.5k", 500)],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_a_script_needs_nothing_but_the_package(tmp_path: Path) -> None:
    """``python -m featherweight.cli``, from any folder."""
    done = subprocess.run(
        [sys.executable, "-m", "featherweight.cli", "tasks"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        env=os.environ | {"NO_COLOR": "1"},
    )
    assert done.returncode == 0 and "digits" in done.stdout and "\x1b" not in done.stdout


def test_what_was_measured_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    found = run("papers", "--measured", "--json").json
    assert found and {"paper", "task", "bytes", "before", "after", "seeds", "claims", "deviations", "command"} <= set(
        found[0]
    )
    text = run("papers", "--measured").out
    assert all(each["paper"] in text and f"{each['bytes']:,}" in text for each in found)
    one = run("papers", "gptq", "--measured", "--json").json
    assert {each["paper"] for each in one} == {"gptq"}
    assert run("papers", "gptq", "--measured", "--card").code == 2


def test_a_reproduction_is_recorded(tmp_path: Path) -> None:
    ran = run("reproduce", "gptq", "--task", "digits", "--record", str(tmp_path), "--json")
    record = Measurement.parse((tmp_path / "gptq.digits.json").read_text())
    assert record.bytes == ran.json["ours"]["bytes"] and record.after == ran.json["ours"]["quality"]["after"]
    assert record.digest == PAPERS["gptq"]().recipe("digits").digest
    missing = run("reproduce", "gptq", "--task", "digits", "--record", str(tmp_path / "nowhere"))
    assert missing.code == 1 and "no folder" in missing.err
