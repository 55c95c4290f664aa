"""What a check of `unveil doctor` returns."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique


@unique
class Status(StrEnum):
    """How a check ended."""

    OK = "OK"
    #: Unveil works, with less speed or without one of its sources.
    WARN = "WARN"
    #: Runs will fail.
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Status
    #: What was found.
    detail: str
    #: What to do, one sentence; empty when the status is OK.
    remedy: str = ""


def passed(name: str, detail: str) -> Check:
    """Return a check that found nothing wrong."""
    return Check(name, Status.OK, detail)


def warned(name: str, detail: str, remedy: str) -> Check:
    """Return a check that found something to know about."""
    return Check(name, Status.WARN, detail, remedy)


def failed(name: str, detail: str, remedy: str) -> Check:
    """Return a check that found what makes runs fail."""
    return Check(name, Status.FAIL, detail, remedy)
