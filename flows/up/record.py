"""What is kept in the folder: ports, what was deployed, and who runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from flows.errors import InvalidSettings
from flows.ledger.records import started_at
from stac.io.files import write_json

_FILE = "up.json"


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, told apart from a later one with the same number."""

    pid: int
    #: Boot of the machine and start in it: a clock that is set changes neither.
    started: str

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Return the identity of a process that runs now.

        Raises:
            NoSuchProcess: it has ended.
        """
        return cls(pid, started_at(pid))

    @property
    def alive(self) -> bool:
        """It runs still."""
        try:
            return started_at(self.pid) == self.started and bool(
                psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The state of a folder between starts."""

    #: Port of each service, by name.
    ports: Mapping[str, int] = field(default_factory=dict)
    #: SHA-256 of the prefect.yaml that was deployed.
    deployed: str = ""
    supervisor: ProcessId | None = None
    #: All services answered once, since this start.
    ready: bool = False
    #: Keeper of each service, by name.
    members: Mapping[str, ProcessId] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        """A supervisor is at work."""
        return self.supervisor is not None and self.supervisor.alive


def read_record(folder: Path) -> Record:
    """Return the record of a folder; an empty one where there is none.

    Raises:
        InvalidSettings: the file is not ours.
    """
    path = folder / _FILE
    try:
        values = json.loads(path.read_text("utf-8"))
        supervisor = values.pop("supervisor")
        members = {name: ProcessId(**process) for name, process in values.pop("members").items()}
        return Record(**values, supervisor=supervisor and ProcessId(**supervisor), members=members)
    except FileNotFoundError:
        return Record()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidSettings(
            f"{path} is no record of `unveil up` ({type(error).__name__}): remove it to begin with default ports."
        ) from error


def write_record(folder: Path, record: Record) -> None:
    """Replace the record; a reader sees the old one or the new one.

    Raises:
        DiskFull, NotWritable: it cannot be written.
    """
    write_json(folder / _FILE, asdict(record))
