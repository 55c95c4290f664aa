"""What can be wrong with a data set on disk, in one vocabulary for the checker and the readers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum, unique

from de_model.errors import InvalidData


@unique
class Severity(StrEnum):
    """Whether a finding keeps the data from being used."""

    ERROR = "error"
    WARNING = "warning"


@unique
class Problem(StrEnum):
    """Kinds of findings."""

    UNKNOWN_LAYOUT = "unknown layout"
    EMPTY_FOLDER = "empty folder"
    UNPAIRED = "unpaired file"
    AMBIGUOUS = "ambiguous name"
    UNREADABLE = "unreadable file"
    BAND_COUNT = "wrong number of bands"
    SAMPLE_TYPE = "wrong sample type"
    SIZE = "different sizes"
    NOT_A_NUMBER = "NaN"
    NO_MASK = "no mask"
    PAIR_COUNT = "unexpected number of pairs"
    DUPLICATE = "duplicate"
    LEAK = "the same image in two splits"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    severity: Severity
    problem: Problem
    #: One sentence that names the file or folder and says what to do.
    message: str


def error(problem: Problem, message: str) -> Finding:
    """Return a finding that keeps the data from being used."""
    return Finding(Severity.ERROR, problem, message)


def warning(problem: Problem, message: str) -> Finding:
    """Return a finding that people should know."""
    return Finding(Severity.WARNING, problem, message)


def raise_errors(findings: Iterable[Finding]) -> None:
    """Raise the first error, with the number of further ones.

    Raises:
        InvalidData: there is an error among the findings.
    """
    errors = [finding.message for finding in findings if finding.severity is Severity.ERROR]
    if errors:
        rest = f" (and {len(errors) - 1} more; `unveil data check` lists them)" if len(errors) > 1 else ""
        raise InvalidData(errors[0] + rest)
