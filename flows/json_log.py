"""Log lines as JSON, each with the run and the work unit it is about: for a collector, not for eyes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path

from stac.io.files import writing
from stac.io.secrets import redact

#: Our logger, whose lines are written.
_LOGGER = "unveil"
_UNIT: ContextVar[str] = ContextVar("unveil_unit", default="")
#: Units that this process works on.
_AT_WORK: list[str] = []


class JsonLine(logging.Formatter):
    """One JSON object a line; tokens in addresses are left out."""

    def __init__(self, run_id: str) -> None:
        super().__init__()
        self._run_id = run_id

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": redact(record.getMessage()),
            "run_id": self._run_id,
            "work_id": _unit(),
            "process": record.process,
        }
        if record.exc_info:
            line["traceback"] = redact(self.formatException(record.exc_info))
        return json.dumps(line)


@contextmanager
def json_log(path: Path | None, run_id: str) -> Iterator[None]:
    """Append the log of a run to a file while the context is open; nothing without a path.

    Every line is one write, so runs may share a file.

    Raises:
        DiskFull, NotWritable: the file cannot be opened.
    """
    if path is None:
        yield
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(JsonLine(run_id))
    logger = logging.getLogger(_LOGGER)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()


@contextmanager
def about_unit(work_id: str) -> Iterator[None]:
    """Write the id of a work unit into all lines of this context."""
    token = _UNIT.set(work_id)
    _AT_WORK.append(work_id)
    try:
        yield
    finally:
        _AT_WORK.remove(work_id)
        _UNIT.reset(token)


def _unit() -> str:
    """Return the unit of this context; threads that read for it know none, but mostly there is only one."""
    return _UNIT.get() or (_AT_WORK[0] if len(_AT_WORK) == 1 else "")
