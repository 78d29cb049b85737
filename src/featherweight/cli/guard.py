"""What happens when a command fails: one line on stderr and an exit code, never a half-written file.

0 is fine, 1 a Featherweight error, 2 wrong usage, 130 an interruption (Ctrl-C). With ``--json`` the error is also an
object on stdout. What is no error of ours, such as a bug in a user's task, keeps its traceback.
"""

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from featherweight.cli.output import emit, say
from featherweight.core.errors import FeatherweightError

Debug = Annotated[bool, typer.Option("--debug", help="On an error, show where in the code it came from.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]

INTERRUPTED = 130


class Guarded(TyperCommand):
    """A command whose errors are told in one line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            say("interrupted; nothing half-written was left behind")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if ctx.params.get("as_json"):
                emit({"error": {"type": type(error).__name__, "message": str(error)}})
            if ctx.params.get("debug") or not isinstance(error, FeatherweightError):
                raise
            say(f"error: {' '.join(str(error).split())}")
            raise typer.Exit(1) from None
