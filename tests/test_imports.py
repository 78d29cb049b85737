"""The law of the rooms: imports point one way. And what importing the package must not bring along."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import featherweight

PACKAGE = Path(featherweight.__file__).parent
BESIDE_CORE = {"run", "file", "checkpoint", "result", "compression", "session", "streaming"}
ENGINES = {"onnx", "onnxruntime", "openvino", "litert", "ai_edge_litert", "executorch", "ncnn", "tvm"}
READS_PAPERS = {"cli", "papers"}
LIGHT = {"core": {"core"}, "coding": {"core", "coding"}, "schemes": {"core", "schemes"}}
"""Rooms that import no others than these."""


def imports(source: str, module: str) -> Iterator[str]:
    """Dotted names of all modules that ``source``, the text of ``module``, imports at run time.

    Names that only type annotations need (``if TYPE_CHECKING``) are no imports.
    """
    tree = ast.parse(source)
    skipped = {id(node) for block in ast.walk(tree) if _for_types(block) for node in ast.walk(block)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module.split(".")[: -node.level]) + "." if node.level else ""
            home = (base + (node.module or "")).rstrip(".")
            yield from (f"{home}.{alias.name}" for alias in node.names)


def _for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def room(name: str) -> str | None:
    """The room or the module beside core that a dotted name lies in; ``None`` for what is not ours."""
    parts = name.split(".")
    return parts[1] if parts[0] == "featherweight" and len(parts) > 1 else None


def complaints(source: str, module: str) -> list[str]:
    """What a module imports against the law."""
    here = room(module) or ""
    found = []
    for name in imports(source, module):
        there = room(name)
        if there is None:
            if name.split(".")[0] in ENGINES and here != "engines":
                found.append(f"{module} imports {name}: only engines may import an engine")
        elif here in LIGHT and there not in LIGHT[here] and there != "__version__":
            found.append(f"{module} imports {name}: {here} imports {' and '.join(sorted(LIGHT[here]))} alone")
        elif (there == "papers" and here not in READS_PAPERS) or (there == "cli" and here != "cli"):
            found.append(f"{module} imports {name}: only the command line may")
    return found


def modules() -> dict[str, Path]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return {".".join(("featherweight", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in paths}


@pytest.mark.parametrize("module", modules())
def test_imports_point_one_way(module: str) -> None:
    assert complaints(modules()[module].read_text(encoding="utf-8"), module) == []


def test_what_stands_outside_the_rooms_is_known() -> None:
    """A new module beside the rooms is a decision: it is named here or moved into a room."""
    outside = {path.stem for path in PACKAGE.glob("*.py")}
    assert outside == {"__init__", *BESIDE_CORE}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("featherweight.coding.bad", "from featherweight.schemes.sparse import Sparse"),
        ("featherweight.coding.bad", "import featherweight.file"),
        ("featherweight.schemes.bad", "from featherweight import metrics"),
        ("featherweight.schemes.bad", "def late():\n    from featherweight.coding import entropy"),
        ("featherweight.core.bad", "from featherweight.schemes.sparse import Sparse"),
        ("featherweight.core.bad", "from ..schemes import sparse"),
        ("featherweight.run", "from featherweight.papers import find"),
        ("featherweight.file", "import featherweight.cli.main"),
        ("featherweight.report.bad", "from featherweight.papers.paper import Paper"),
        ("featherweight.papers.bad", "from featherweight.cli.main import app"),
        ("featherweight.search.bad", "import onnxruntime as ort"),
        ("featherweight.costs.bad", "from openvino.runtime import Core"),
    ],
)
def test_the_law_can_be_broken(module: str, source: str) -> None:
    assert len(complaints(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "featherweight.coding.good",
            "import numpy\nfrom featherweight.core.errors import FormatError\nfrom . import table",
        ),
        ("featherweight.run", "from featherweight.training import loop"),
        ("featherweight.cli.good", "from featherweight.papers import find"),
        ("featherweight.engines.good", "import onnxruntime"),
        ("featherweight.core.good", "if TYPE_CHECKING:\n    from featherweight.schemes.sparse import Sparse"),
    ],
)
def test_the_law_can_be_kept(module: str, source: str) -> None:
    assert complaints(source, module) == []


def test_importing_the_package_brings_nothing_heavy_along() -> None:
    """Not torch before a name is used; and with all of them, nothing that only some commands need."""
    code = (
        "import sys\n"
        "import featherweight\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "for name in featherweight.__all__:\n"
        "    getattr(featherweight, name)\n"
        "heavy = {'sklearn', 'rich', 'typer', 'matplotlib', 'pandas', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_public_names_are_told_alike_everywhere() -> None:
    """In ``__all__``, in the table of homes, and in the imports that type checkers read."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if _for_types(node))
    assert isinstance(block, ast.If)
    typed = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    homes = {name: home for home, names in featherweight._HOMES.items() for name in names}
    assert typed == homes and set(homes) == set(featherweight.__all__) <= set(dir(featherweight))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        featherweight.nothing  # noqa: B018
