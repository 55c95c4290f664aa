"""What `unveil up` keeps between starts."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from flows.errors import AlreadyRunning, InvalidSettings
from flows.ops.up.control import ProcessId, Record, read_record, write_record
from flows.ops.up.members import DEFAULT_PORTS, Service
from flows.ops.up.supervisor import place_for, require_down


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_record(tmp_path) == Record()
    record = Record(
        ports={"prefect": 1}, deployed="a", supervisor=ProcessId(3, "b-4"), members={"mlflow": ProcessId(5, "b-6")}
    )
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record and [p.name for p in tmp_path.iterdir()] == ["up.json"]


def test_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "up.json").write_text("[1]")
    with pytest.raises(InvalidSettings, match=r"up\.json is not a record"):
        read_record(tmp_path)


def test_a_later_process_with_the_same_number_is_another_one(tmp_path: Path) -> None:
    ours = ProcessId.of(os.getpid())
    assert ours.alive and not replace(ours, started=f"{ours.started}0").alive
    place = place_for(tmp_path, tmp_path / "state", {}, browser=False)
    place.folder.mkdir(parents=True)
    write_record(place.folder, Record(supervisor=replace(ours, started=f"{ours.started}0")))
    require_down(place)
    write_record(place.folder, Record(supervisor=ours))
    with pytest.raises(AlreadyRunning, match="unveil down --out"):
        require_down(place)


def test_ports_are_given_or_remembered_or_default(tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    write_record(tmp_path / "up", Record(ports={"prefect": 4321}))
    place = place_for(tmp_path, tmp_path, {Service.MLFLOW: 0, Service.CATALOG: 1234}, browser=False)
    assert place.ports["prefect"] == 4321 and place.ports["catalog"] == 1234
    assert place.ports["worker"] == DEFAULT_PORTS[Service.WORKER] and place.ports["mlflow"] not in (0, 5000)
