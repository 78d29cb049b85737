"""Files and their measurements as JSON records."""

from typing import Any

from featherweight.core.task import Quality
from featherweight.file import Claims, Contents
from featherweight.report.ledger import ledger
from featherweight.report.summary import claimed, ledger_json, pairs
from featherweight.result import Verified, lines


def verified_record(verified: Verified) -> dict[str, Any]:
    return {
        "file": verified.file,
        "bytes": verified.bytes,
        "task": verified.task.name,
        "claimed": claims_record(verified.claims, verified.task.quality),
        "ok": verified.ok,
        "measured": measured_record(verified),
    }


def measured_record(verified: Verified) -> dict[str, Any]:
    """``weight_bits`` is the widest symbol of a weight; for accuracy, it and the error are in per cent.

    ``rest`` has the quality on the samples that no choice was made on; null where these are all of them.
    """
    found = verified.measured
    record: dict[str, Any] = {
        "metric": found.metric,
        "value": found.value,
        "samples": found.samples,
        "parameters": found.parameters,
        "nonzero": found.nonzero,
        "macs": found.macs,
        "macs_dense": found.macs_dense,
        "weight_bits": found.weight_bits,
        "activation_bits": found.activation_bits,
        "rest": None if found.rest is None else {"value": found.rest.value, "samples": found.rest.samples},
    }
    if pairs(verified.task.quality):
        record |= {"accuracy": found.value, "error": 100.0 - found.value}
    return record


def claims_record(claims: Claims | None, quality: Quality) -> dict[str, Any] | None:
    if claims is None or claims.samples == 0:
        return None
    said = claimed(claims, quality)
    return {
        "metric": said.metric,
        "value": said.after,
        "samples": said.samples,
        "parent": said.before,
        "lost": said.lost,
        "won": said.won,
        "p_value": said.p_value,
    }


def failed_record(path: str, error: Exception) -> dict[str, Any]:
    """A file that could not be measured, with the reason; the same keys as one that could."""
    return {
        "file": path,
        "bytes": None,
        "task": None,
        "claimed": None,
        "ok": False,
        "measured": None,
        "error_message": str(error),
    }


def contents_record(path: str, contents: Contents, task: str | None, quality: Quality | None) -> dict[str, Any]:
    header = contents.header
    claims = header.claims
    return {
        "file": path,
        "bytes": contents.size,
        "task": task or header.task,
        "number": header.number,
        "recipe": header.recipe or None,
        "edits": [edit.identifier for edit in header.edits],
        "claimed": raw_claims(claims) if quality is None else claims_record(claims, quality),
        **ledger_json(ledger(lines(contents.codes), contents.size)),
    }


def raw_claims(claims: Claims | None) -> dict[str, Any] | None:
    """Sums of scores as the file has them: what they are called, only the task knows."""
    if claims is None:
        return None
    return {"samples": claims.samples, "total": claims.total, "parent_total": claims.parent, "lost": claims.lost}
