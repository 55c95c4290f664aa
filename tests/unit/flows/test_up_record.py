"""What `unveil up` keeps between starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from flows.errors import AlreadyRunning, InvalidSettings
from flows.ops.up.services import DEFAULT_PORTS, Service, place_for
from flows.ops.up.supervisor import down, health_of, require_down
from flows.services.state import Record, read_record, write_record


def test_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "up.json").write_text("[1]")
    with pytest.raises(InvalidSettings, match=r"up\.json is not a record"):
        read_record(tmp_path)


def test_a_supervisor_is_at_work_while_it_holds_its_folder_whatever_the_record_says(tmp_path: Path) -> None:
    place = place_for(tmp_path, tmp_path / "state", {}, browser=False)
    assert {found.problem for found in health_of(place)} == {"not running"} and list(tmp_path.iterdir()) == []
    place.folder.mkdir(parents=True)
    # The number of a supervisor that was killed may be that of any process by now.
    write_record(place.folder, Record(supervisor=1, members={"mlflow": 1}))
    require_down(place)
    assert {found.problem for found in health_of(place)} == {"not running"} and down(place) is False
    with FileLock(place.folder / "up.lock"), pytest.raises(AlreadyRunning, match="unveil down --out"):
        require_down(place)


def test_ports_are_given_or_remembered_or_default(tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    write_record(tmp_path / "up", Record(ports={"prefect": 4321}))
    place = place_for(tmp_path, tmp_path, {Service.MLFLOW: 0, Service.CATALOG: 1234}, browser=False)
    assert place.ports["prefect"] == 4321 and place.ports["catalog"] == 1234
    assert place.ports["worker"] == DEFAULT_PORTS[Service.WORKER] and place.ports["mlflow"] not in (0, 5000)
