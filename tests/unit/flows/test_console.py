"""The command line: what is loaded before it works, what a person and a program see, and a status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from de_model.errors import InvalidCheckpoint, TrainingFailed
from flows.cli import _explain, _interrupted, console, tables
from flows.errors import InvalidSettings, ScenesInvalid, ServiceUnavailable, UnknownModel, WorkFailed, exit_status
from flows.progress import Event, listening, report_progress
from stac.errors import DiskFull, EmptySearch, InvalidQuery, SourceUnavailable, UnreadableAsset, UnreadableCatalog
from tests.command import ROOT

_HEAVY = {"torch", "prefect", "mlflow", "matplotlib"}


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        pytest.param("flows.cli", _HEAVY | {"rasterio", "scipy", "s3fs"}, id="help"),
        pytest.param("flows.settings.loading", _HEAVY, id="settings"),
        pytest.param("flows.ledger.store", _HEAVY, id="status"),
        pytest.param("stac.catalog.check", _HEAVY, id="check"),
        pytest.param("flows.mosaic", _HEAVY - {"prefect"}, id="a run with nothing to do"),
        pytest.param("flows.period_mosaic", _HEAVY - {"prefect"}, id="mosaics with nothing to do"),
    ],
)
def test_loads_nothing_it_does_not_need(module: str, unwanted: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr
    loaded = set(told.stdout.split())
    assert module in loaded and not unwanted & loaded


def of_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    for module in (console, tables):
        monkeypatch.setattr(module, "output", Console(highlight=False, width=width))


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Consoles that look up stdout and stderr anew and do not wrap."""
    monkeypatch.setattr(console, "errors", Console(stderr=True, highlight=False, width=250))
    of_width(monkeypatch, 250)


def test_an_error_is_one_sentence_and_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_error("Box [1,2] is wrong; " + "x" * 300, as_json=True, kind="InvalidQuery")
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": {"kind": "InvalidQuery", "message": "Box [1,2] is wrong; " + "x" * 300}}
    assert err == "unveil: Box [1,2] is wrong; " + "x" * 300 + "\n"
    console.print_error("plain", as_json=False, kind="InvalidQuery")
    assert capsys.readouterr() == ("", "unveil: plain\n")


def test_json_holds_paths_and_never_nan(capsys: pytest.CaptureFixture[str]) -> None:

    console.print_json({"path": Path("a/b"), "text": "é"})
    assert json.loads(capsys.readouterr().out) == {"path": "a/b", "text": "é"}
    with pytest.raises(ValueError, match="JSON"):
        console.print_json({"n": float("nan")})
    assert capsys.readouterr().out == ""


def test_progress_goes_to_stderr_and_only_while_it_is_open(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[Event] = []
    with console.progress_bar(), listening(heard.append):
        report_progress("restoring", 1, 4)
    report_progress("nobody listens")
    assert heard == [Event("restoring", 1, 4)]
    assert capsys.readouterr().out == ""


Unit = dict[str, Any]


@pytest.fixture
def unit() -> Unit:
    figures = {"cloudy_km2": 10.0, "other_dates_km2": 9.0, "model_km2": 1.0, "seconds": 2.0}
    return {
        "work_id": "w",
        "target_id": "A",
        "state": "SUCCEEDED",
        "item_href": "out/c/A/A.json",
        "error": "",
        "figures": figures,
    }


def summary(*units: Unit, **changes: object) -> dict[str, Any]:
    model = {"name": "unveil-de", "version": "3"}
    about = {"scenes": 10, "model": model, "seconds": 5.0, "catalog": "out/catalog.json"}
    return about | {"left_out": (), "remade": (), "units": units, "already_done": [], "in_review": []} | changes


def without_product(unit: Unit, state: str, error: str) -> Unit:
    return unit | {"state": state, "item_href": "", "error": error, "figures": None}


def test_the_summary_shows_failures_totals_and_where_to_look(capsys: pytest.CaptureFixture[str], unit: Unit) -> None:
    failed = without_product(unit, "FAILED", "asset [red] cannot be read") | {"target_id": "B"}
    note = "needs review: Sharpness is 0.1, below the limit of 0.4."
    waiting = unit | {"target_id": "C", "item_href": "out/unveil-review/C/C.json", "note": note}
    tables.print_summary(summary(unit, failed, waiting, already_done=["x"], in_review=["y"]), "out")
    out = capsys.readouterr().out
    for text in (
        "FAILED",
        "asset [red] cannot be read",
        "needs review",
        "below the limit of 0.4",
        "1 new, 1 already there",
        "2 in collection unveil-review",
        "18 km²",
        "version 3",
        "out/c/A/quicklook.png",
        "unveil serve",
    ):
        assert text in out, text


def test_in_80_columns_no_id_and_no_path_is_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, unit: Unit
) -> None:
    of_width(monkeypatch, 80)
    folder = "a-folder-with-a-long-name/" * 3 + "unveil-cloud-free"
    ids = [f"S2A_33TWM_201808{day}_0_L2A" for day in range(10, 15)]
    units = [unit | {"target_id": each, "item_href": f"{folder}/{each}-unveil-0/{each}-unveil-0.json"} for each in ids]
    units[0] = without_product(units[0], "FAILED", "asset B02 cannot be read")
    units[1] |= {"note": "needs review: Sharpness is 0.1, below the limit of 0.4."}
    left_out = [{"target_id": "LC09_L2SP_190028_20230818_20230822_02_T1", "cause": "cloud cover", "reason": "r " * 60}]
    tables.print_summary(summary(*units, left_out=left_out, catalog=f"{folder}/catalog.json"), "my out")
    rows = [{"state": "new", "target_id": each, "cloud_cover": 40.5, "sources": 4, "megapixels": 120.6} for each in ids]
    tables.print_plan([row | {"item_id": f"{row['target_id']}-unveil-08510f3d", "reason": ""} for row in rows])
    out = capsys.readouterr().out
    assert "…" not in out
    drawn = [line for line in out.splitlines() if line[:1] in "│┃┏┡└"]
    assert max(map(len, drawn)) <= 80
    for each in ids:  # once as a scene, once in the plan
        assert sum(f"│ {each} │" in line for line in drawn) == 2, each
    assert "LC09_L2SP_190028_20230818_20230822_02_T1" in out
    for line in (
        f"  {folder}/{ids[1]}-unveil-0/quicklook.png",
        f"Catalog: {folder}/catalog.json",
        "  unveil redrive --out 'my out'   # try them again",
        "  unveil serve --out 'my out'   # look at it in STAC Browser",
    ):
        assert line in out.splitlines(), line


def test_long_ids_are_folded_before_words_of_other_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, unit: Unit
) -> None:
    of_width(monkeypatch, 80)
    scene = "S2A_MSIL2A_20230818T095031_N0509_R079_T33TWL_20230818T134500"
    tables.print_summary(summary(unit | {"target_id": scene}), "out")
    drawn = [line for line in capsys.readouterr().out.splitlines() if line[:1] in "│┃┏┡└"]
    assert max(map(len, drawn)) <= 80
    assert [line.split()[3] for line in drawn if "│ S2A_" in line] == ["SUCCEEDED"]


def test_what_another_run_published_does_not_need_review(capsys: pytest.CaptureFixture[str], unit: Unit) -> None:
    tables.print_summary(summary(unit | {"figures": None, "note": "published by another run"}), "out")
    out = capsys.readouterr().out
    assert "SUCCEEDED" in out and "published by another run" in out and "1 new" in out and "review" not in out


def test_a_small_area_is_not_printed_as_nothing(capsys: pytest.CaptureFixture[str], unit: Unit) -> None:
    unit["figures"] |= {"cloudy_km2": 0.1312, "other_dates_km2": 0.0, "model_km2": 0.0416}
    tables.print_summary(summary(unit), "out")
    out = capsys.readouterr().out
    assert "0.13 km²" in out and "0.042 km²" in out and " 0 km²" in out


def test_what_is_next_depends_on_what_there_is(capsys: pytest.CaptureFixture[str], unit: Unit) -> None:
    tables.print_summary(summary(without_product(unit, "INVALID", "scale contradicts the file")), "out")
    out = capsys.readouterr().out
    assert "unveil redrive --out out --include-invalid" in out
    assert "unveil serve" not in out and "same command" not in out
    unplanned = without_product(unit, "INVALID", "its grid is another one") | {"work_id": ""}
    for each in (summary(unplanned), summary(without_product(unit, "FAILED", "no answer"), periods=("2023-08",))):
        tables.print_summary(each, "out")
        out = capsys.readouterr().out
        assert "redrive" not in out and "the same command" in out
    tables.print_summary(summary(already_done=["x", "y"]), "out")
    assert "0 new, 2 already there" in capsys.readouterr().out


def test_plan_and_tables_are_printed_whatever_they_hold(capsys: pytest.CaptureFixture[str]) -> None:
    new = {"state": "new", "target_id": "A", "cloud_cover": 40.0, "sources": 4, "megapixels": 0.4, "item_id": "A-1"}
    invalid = dict.fromkeys(new, "") | {"state": "invalid", "target_id": "B"}
    tables.print_plan([new | {"reason": ""}, invalid | {"reason": "no [red] asset"}])
    console.print_table("", ("check", "found"), [("GDAL", "none [of it]")])
    out = capsys.readouterr().out
    for text in ("A-1", "no [red] asset", "none [of it]"):
        assert text in out, text


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
        error = kind("a [thing] is wrong; set another")
        assert exit_status(error) == _explain(error, True) == status
        out, err = capsys.readouterr()
        assert err == "unveil: a [thing] is wrong; set another\n"
        assert json.loads(out) == {"error": {"kind": kind.__name__, "message": "a [thing] is wrong; set another"}}


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


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that cannot be written even by root")
def test_where_the_working_folder_cannot_be_written_the_log_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir("/proc/self")
    assert _explain(raised(), False) == 1
    assert "in raised" in (tmp_path / "unveil-error.log").read_text()
    assert str(tmp_path) in capsys.readouterr().err
