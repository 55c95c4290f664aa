"""Every error becomes one sentence and an exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from de_model.errors import InvalidCheckpoint, TrainingFailed
from flows.cli import _explain, _interrupted
from flows.errors import InvalidSettings, ScenesInvalid, ServiceUnavailable, UnknownModel, WorkFailed, exit_status
from stac.errors import DiskFull, EmptySearch, InvalidQuery, SourceUnavailable, UnreadableAsset, UnreadableCatalog


@pytest.mark.parametrize(
    ("kinds", "status"),
    [
        ((InvalidQuery, EmptySearch, UnreadableCatalog, InvalidSettings, UnknownModel, ScenesInvalid), 2),
        ((InvalidCheckpoint,), 2),
        ((SourceUnavailable, UnreadableAsset, DiskFull, ServiceUnavailable, WorkFailed, TrainingFailed), 1),
    ],
)
def test_invalid_input_is_distinguished_from_failure(
    kinds: tuple[type[Exception], ...], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in kinds:
        error = kind("a [thing] is wrong; mend it")
        assert exit_status(error) == _explain(error, True) == status
        out, err = capsys.readouterr()
        assert err == "unveil: a [thing] is wrong; mend it\n"
        assert json.loads(out) == {"error": {"kind": kind.__name__, "message": "a [thing] is wrong; mend it"}}


def test_ctrl_c_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert _interrupted(True) == 130
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "Interrupted"


def raised() -> Exception:
    try:
        raise RuntimeError("connection to postgresql://me:hush@db/stac failed: password=hush\ntwo")
    except RuntimeError as error:
        return error


def test_an_unexpected_error_is_one_sentence_and_its_traceback_is_kept_without_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["unveil", "publish", "--index", "postgresql://me:hush@db/stac"])
    assert _explain(raised(), False) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "Unexpected RuntimeError: connection to " in err
    log = (tmp_path / "unveil-error.log").read_text()
    assert "Traceback" in log and "in raised" in log and "--index" in log and str(tmp_path) in err
    assert "hush" not in err + log


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder nobody can write to")
def test_where_the_working_folder_cannot_be_written_the_log_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir("/proc/self")
    assert _explain(raised(), False) == 1
    assert "in raised" in (tmp_path / "unveil-error.log").read_text()
    assert str(tmp_path) in capsys.readouterr().err
