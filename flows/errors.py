"""Errors of the orchestration layer, and the exit status of each kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from de_model.errors import DeModelError, InvalidCheckpoint, InvalidModelInput
from stac.errors import AccessRefused, InvalidInput, MissingExtra, StacError, UnsafeHref

if TYPE_CHECKING:
    from flows.running.summary import RunSummary

#: Exit statuses of the `unveil` command (docs/operations.md): a scene or a service failed; input is unusable, be it a
#: setting or a scene; interrupted.
EXIT_FAILED = 1
EXIT_INVALID = 2
EXIT_INTERRUPTED = 130


class FlowError(Exception):
    """Base of all errors raised by `flows`."""

    retryable = False


class InvalidSettings(FlowError):
    """A setting is wrong or settings contradict each other."""


class ServiceUnavailable(FlowError):
    """A service the run needs (Prefect, MLflow, STAC Browser build) did not start or answer in time."""

    retryable = True


class AlreadyRunning(FlowError):
    """`unveil up` is at work on this folder already."""


class LedgerUnavailable(ServiceUnavailable):
    """The ledger's database does not answer, its file is locked or broken, or a newer version made it."""


class LeaseLost(FlowError):
    """Another run took a unit over while this one was working on it; what was made must not be published."""


class RunStopped(FlowError):
    """A task was asked to end because its run was stopped; its unit is not at fault."""


class WorkersLost(ServiceUnavailable):
    """The run has no workers left: a scheduler, all of its workers, or every process is gone."""

    # Of a task: the run as a whole has to be given again.
    retryable = False


class WorkerKilled(FlowError):
    """Each worker that had a task in hand was killed, most likely as memory ran out."""


class InvalidPlan(InvalidSettings):
    """A frozen plan cannot be read, was changed, or does not fit what it is used with."""


class UnknownModel(FlowError):
    """The registry has no such model, alias or version."""


class CensusIncomplete(FlowError):
    """Scenes of a census have no product, or a broken one."""


class ChampionChanged(FlowError):
    """Another version became the champion while a challenger was compared with the one before."""


class WorkFailed(FlowError):
    """Work units of a run failed; the others are published."""

    def __init__(self, message: str, summary: RunSummary | None = None) -> None:
        """Keep how the run ended (`summary`) with the error."""
        super().__init__(message)
        self.summary = summary


class ScenesInvalid(WorkFailed):
    """Scenes cannot be restored, however often it is tried; nothing else failed."""


#: All errors that are shown to the user as one sentence, without a traceback.
KNOWN_ERRORS = (StacError, DeModelError, FlowError)


#: Credentials, `allow_hosts` and packages may change before the next run; they are no part of a unit's id.
_OF_SETTINGS = (AccessRefused, MissingExtra, UnsafeHref)


def is_unusable(error: BaseException) -> bool:
    """Return whether a scene cannot be used, however often it is tried; otherwise something failed."""
    return isinstance(error, InvalidInput) and not isinstance(error, _OF_SETTINGS)


def exit_status(error: BaseException) -> int:
    """Return the exit status of `error`: 2 for invalid input, 1 for a failure."""
    invalid = (InvalidInput, InvalidSettings, UnknownModel, ScenesInvalid, InvalidModelInput, InvalidCheckpoint)
    return EXIT_INVALID if isinstance(error, invalid) else EXIT_FAILED
