"""``python -m featherweight.cli``."""

from featherweight.cli.main import app

app(prog_name="featherweight")
