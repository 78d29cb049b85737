"""Law 7: hostile files that are kept, and what reading may cost: no import, no code, little memory."""

import builtins
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from featherweight import file
from featherweight.core.errors import FormatError

from .make import ATTACKS, CODEBOOK, FILES, FIRST, HALF, bomb, coded, edit, fold, packed, quantizer, tap, taps, user
from .make import two as shared
from .victim import TAPPED, USERS, Victim, loads, plain, resealed, student, survives, unpacks

KEPT = sorted(path.name for path in FILES.iterdir())


def test_all_are_kept() -> None:
    assert {f"{name}.fwt" for name in ATTACKS} <= set(KEPT)
    assert all(len((FILES / name).read_bytes()) < 2048 for name in KEPT)


@pytest.mark.parametrize("name", KEPT)
def test_a_hostile_file_is_refused(name: str) -> None:
    assert not survives((FILES / name).read_bytes())


@pytest.mark.parametrize(
    "header",
    ["[" * 200_000, '{"a":' * 200_000, "9" * 100_000, '"' + "\\u0000" * 100_000 + '"', '{"tensors":' + "[" * 50_000],
    ids=["lists", "objects", "digits", "zeros", "half"],
)
def test_large_headers(header: str) -> None:
    assert not survives(user(header))
    assert not survives(packed(header))


def test_what_is_attacked_is_taken_where_nothing_is_wrong_with_it() -> None:
    """Else the attacks could be refused for another reason than theirs."""
    assert unpacks(tap("layer", "convolve", 0, -1)) and unpacks(taps()) and unpacks(quantizer(8, -100, 0.25))
    assert unpacks(quantizer(1, -1, 3e38)) and unpacks(packed({"tensors": []}, coded()))
    with pytest.raises(FormatError, match="embed: a stream"):  # which is behind the header
        file.load(fold({"layer": "norm"}), Victim())
    with pytest.raises(FormatError, match="embed: a stream"):
        file.load(edit("group", {"layer": {"inputs": [[0], [1], [1]], "outputs": [2, 0, 1]}}), Victim())
    one, two = (CODEBOOK, (1,), (HALF,)), (CODEBOOK, (1,), (FIRST,))
    assert unpacks(shared(one, two, streams=(([0], 2**16),))) and unpacks(shared(two, one, streams=(([0], 2**16),)))


REASONS = {
    "shared": "shared numbers|whole tensor|codebook of shape",
    "packed": "split the model|packed header cannot be read|reaches past the end|is not one that Featherweight writes",
    "taps": "is not one that Featherweight writes",
    "function": "is not one that Featherweight writes",
    "place": "is not one that Featherweight writes",
    "places": "is not one that Featherweight writes",
    "module": "is not one that Featherweight writes|it has no module 'nowhere'",
    "operator": "is not one that Featherweight writes",
    "ordinal": "is not one that Featherweight writes",
    "operand": "is not one that Featherweight writes",
    "sign": "a sign has no settings|is not one that Featherweight writes",
    "quantizer": "no quantizer of activations|is not one that Featherweight writes",
    "scale": "no quantizer of activations",
    "group": "to be grouped|the edit says|not there|groups of a layer|what stays|not one that Featherweight writes",
    "runtime": "an agent is a row|is not one that Featherweight writes",
    "fold": "norm .* has no name|to fold|two layers|norms 5 channels|is not one that Featherweight writes",
}


@pytest.mark.parametrize("name", [name for name in ATTACKS if name.partition("-")[0] in REASONS])
def test_an_attack_is_refused_for_its_own_reason(name: str) -> None:
    with pytest.raises(FormatError, match=REASONS[name.partition("-")[0]]):
        data = (FILES / f"{name}.fwt").read_bytes()
        file.decode(data, None) if name.startswith("shared") else file.load(data, Victim())


@pytest.mark.parametrize("piece", ["[],", '{"":0},', "9,", '"ab",', " ", "[[[]]],"])
@pytest.mark.parametrize("size", [1 << 24, 1 << 26])
def test_a_header_that_grows_is_refused(piece: str, size: int) -> None:
    data = bomb(piece, size)
    assert len(data) < size // 500
    assert not survives(data)


def test_what_could_not_be_read_is_not_written() -> None:
    many = {"recipe": "x" * file.HEADER_BYTES}
    with pytest.raises(FormatError, match="split the model"):
        file.encode(student(), **many)
    data = file.encode(student(), recipe="x" * (file.HEADER_BYTES - 1000))
    assert len(data) < 50_000 and loads(data)


def test_the_limit_is_the_caller_s() -> None:
    with pytest.raises(FormatError, match="over the limit of 10; raise max_bytes"):
        file.decode(USERS, None, max_bytes=10)
    assert file.decode(USERS, None, max_bytes=10_000).codes


def test_a_file_for_another_model_is_refused() -> None:
    class Other(Victim):
        def __init__(self) -> None:
            super().__init__()
            del self.bias

    with pytest.raises(FormatError, match="another model: it holds .*bias"):
        file.load(USERS, Other())


class Watch(MetaPathFinder):
    """Notes every module that is looked for and not there yet, and every call that it is told to note."""

    def __init__(self) -> None:
        self.sought: list[str] = []

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        self.sought.append(name)

    def noting(self, name: str) -> Callable[..., Any]:
        function = getattr(builtins, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            self.sought.append(name)
            return function(*args, **kwargs)

        return noted


def test_a_file_imports_and_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one that names a task, an edit or a recipe as if they were modules."""
    watch = Watch()
    traced = "cut-graph"  # torch traces the caller's own model for these, which imports and compiles torch's own code
    hostile = [(FILES / name).read_bytes() for name in KEPT if not name.startswith(traced)]
    named = resealed(plain(USERS).replace(b'"my task"', b'"antigrv"').replace(b'"mine"', b'"this"'))
    assert named != plain(USERS) and loads(USERS) and loads(TAPPED)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "meta_path", [watch, *sys.meta_path])
        for runner in ("exec", "eval", "compile", "open"):
            patch.setattr(builtins, runner, watch.noting(runner))
        for data in (USERS, TAPPED, named, *hostile):
            survives(data)
    assert watch.sought == []


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's count of a process's memory")
def test_memory_is_bounded() -> None:
    """All kept files, and mutations, in a process that may take 300 MB more than it has after importing."""
    script = Path(__file__).with_name("limited.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.strip().endswith("refused")
