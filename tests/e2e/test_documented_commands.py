"""Every command of README and docs runs as it is written, on the shipped sample in place of a remote archive."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from de_model import checkpoint
from tests.command import ROOT, TINY_BBOX, TINY_SETTINGS, Run, unveil

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
AUGUST = "2023-08-01/2023-08-31"
#: An option that names something outside of this machine -> what stands in for it; None leaves it out.
STAND_INS: dict[str, str | None] = {
    "--source": None,  # the sample
    "--collection": None,
    "--bbox": TINY_BBOX,
    "--datetime": AUGUST,
    "--cell": "MGRS-33TWM",
    "--index": None,
    "--public-root": None,
    "--dask-scheduler": None,  # a cluster of this machine
}
#: A command that lasts, or that needs services -> the test which runs it with them.
ELSEWHERE = {
    "up": "integration/test_control_planes.py",
    "down": "integration/test_control_planes.py",
    "serve": "integration/test_documentation.py",
    "metrics --port": "integration/test_prometheus.py",
    "publish": "integration/test_searchable_copies.py",
    "automations": "integration/test_deployment.py",
    "run --runner dask": "integration/test_scale_out.py",
    "promote": "integration/test_promotion.py",
    "retrain --config": "integration/test_retrain.py",
    "rollback": "integration/test_promotion.py",
}


def documented() -> Iterator[tuple[str, str]]:
    """Yield page and command of every line in a block of code that calls `unveil`, continued lines joined."""
    for page in PAGES:
        for block in re.findall(r"^```\w*\n.*?^```|^(?:    .*\n)+", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if match := re.match(r" *(?:\.venv/bin/)?unveil (.+)", line):
                    yield page.stem, " ".join(shlex.split(match[1], comments=True))


def elsewhere(command: str) -> str | None:
    """Return the test that runs a command with the services it needs."""
    words = command.split()
    return next((test for start, test in ELSEWHERE.items() if all(word in words for word in start.split())), None)


COMMANDS = list(dict.fromkeys(documented()))
HERE = [(page, command) for page, command in COMMANDS if elsewhere(command) is None]


@pytest.fixture(scope="module")
def folder(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the files that the pages speak of, and a catalog under both of its names."""
    folder = tmp_path_factory.mktemp("pages")
    for name in ("zagreb", "unveil-out"):
        shutil.copytree(tiny_run.root, folder / name)
    (folder / "zagreb.yaml").write_text(f"bbox: {TINY_BBOX}\ndatetime: {AUGUST}\nout: zagreb\n")
    west, south, east, north = map(float, TINY_BBOX.split(","))
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    enhancer = checkpoint.load(checkpoint.shipped_weights())
    next(enhancer.parameters()).data += 1e-3
    checkpoint.save(enhancer, folder / "better.safetensors")
    shutil.copy(folder / "better.safetensors", folder / "mine.safetensors")
    (folder / "zagreb.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    return folder


@pytest.mark.parametrize(("page", "command"), HERE, ids=[f"{page}: {command}" for page, command in HERE])
def test_a_command_of_the_documentation_ends_well(page: str, command: str, folder: Path) -> None:
    words: list[str] = []
    given = iter(shlex.split(command))
    for word in given:
        if word in STAND_INS:
            next(given)
            stand_in = STAND_INS[word]
            words += [word, stand_in] if stand_in is not None else []
        else:
            words.append(re.sub(r"^s3://[^/]+/", "", word).replace("2023-JJA", "2023-08"))
    if words[:2] == ["drift", "--baseline"] and "--weights" not in words:
        words += ["--weights", "better.safetensors"]  # not beside the shipped ones
    small = {"UNVEIL_BBOX": TINY_BBOX} | (
        {"UNVEIL_CELL_SIZE": "64", "UNVEIL_RESOLUTION": "120"} if "fixed" in words else {}
    )
    done = unveil(*words, home=folder, extra=TINY_SETTINGS | small)
    assert done.status == 0, f"unveil {command}: {done.err}"


@pytest.mark.parametrize("command", sorted({command for _, command in COMMANDS if elsewhere(command)}))
def test_the_other_commands_are_run_by_the_test_that_is_named(command: str) -> None:
    test = ROOT / "tests" / str(elsewhere(command))
    assert f'"{command.split()[0]}"' in test.read_text("utf-8"), f"{test} does not run unveil {command}"
