"""``featherweight tasks``."""

from featherweight.cli.guard import AsJson, Debug
from featherweight.cli.output import emit, show


def tasks(as_json: AsJson = False, debug: Debug = False) -> None:
    """List the built-in tasks. Your own is a Python file with a function that returns a Task: my_task.py:function."""
    import inspect
    from typing import Any

    from featherweight.core.errors import TaskError
    from featherweight.core.site import parameters
    from featherweight.report import terminal
    from featherweight.tasks import BUILT_IN

    records: list[dict[str, Any]] = []
    for name, make in BUILT_IN.items():
        task = make()
        about = (inspect.getdoc(make) or "").partition("\n")[0]
        try:
            count = sum(parameter.numel() for _, _, parameter in parameters(task.architecture()))
        except TaskError:  # an optional package that builds it is not installed
            count = None
        records.append(
            {"name": name, "number": task.number, "parameters": count, "about": about, "unseen": task.unseen}
        )
    if as_json:
        emit(records)
        return
    rows = [(str(r["name"]), _count(r["parameters"]), f"{r['about']}{'' if r['unseen'] else ' (*)'}") for r in records]
    show(terminal.table(("name", "parameters", "about"), rows))
    if not all(r["unseen"] for r in records):
        show("(*) the model has seen the evaluation data in training")
    if any(r["parameters"] is None for r in records):
        show("a task without a number of parameters needs an extra: pip install 'featherweight[models]'")


def _count(parameters: int | None) -> str:
    return "not installed" if parameters is None else f"{parameters:,}"
