"""Two revisions are measured in turns and compared figure by figure; the clone stays as it was."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.bench.revisions import Compared, figures_of
from flows.cli import app

#: Stands for this software: a command of the same name, whose figures a revision sets.
_COMMAND = """
import json, sys
assert sys.argv[1:] == ["bench", "engine", "--json"], sys.argv
print(json.dumps({record}))
"""


def git(*arguments: str, at: Path) -> str:
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *author, *arguments], cwd=at, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two revisions, `slow` and `fast`, and a third that cannot be measured."""
    root = tmp_path / "clone"
    (root / "flows" / "cli").mkdir(parents=True)
    (root / "flows" / "__init__.py").touch()
    (root / "flows" / "cli" / "__init__.py").touch()
    git("init", "--quiet", at=root)
    revisions = {
        "slow": _COMMAND.format(record={"ways": [{"name": "eager", "seconds": 4.0}], "tiles": 9, "old": 1}),
        "fast": _COMMAND.format(record={"ways": [{"name": "eager", "seconds": 1.0}], "tiles": 9}),
        "broken": "raise SystemExit('no such thing')",
    }
    for name, text in revisions.items():
        (root / "flows" / "cli" / "__main__.py").write_text(text)
        git("add", ".", at=root)
        git("commit", "--quiet", "-m", name, at=root)
        git("tag", name, at=root)
    git("checkout", "--quiet", "fast", at=root)
    monkeypatch.chdir(root)
    return root


def compare(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["bench", "revisions", "engine", *arguments])


def test_figures_of_both_are_compared_and_the_clone_stays_as_it_was(clone: Path, tmp_path: Path) -> None:
    done = compare("slow", "fast", "--turns", "3", "--json", "--out", str(tmp_path))
    record = json.loads(done.stdout.partition("written.")[2] or done.stdout)
    seconds, tiles = record["figures"]
    assert seconds["name"] == "ways.eager.seconds" and seconds["ratio"] == 0.25 and seconds["clear"]
    assert seconds["before"] == [4.0] * 3 and not tiles["clear"] and record["unmatched"] == 1
    page = (tmp_path / "revisions-engine.md").read_text()
    assert "| ways.eager.seconds | 4 | 1 | 0.250 | clear |" in page and "Here 1." in page
    assert git("status", "--porcelain", at=clone) == "" and len(git("worktree", "list", at=clone).splitlines()) == 1


def test_the_files_as_they_lie_here_are_a_revision(clone: Path) -> None:
    text = _COMMAND.format(record={"ways": [{"name": "eager", "seconds": 2.0}], "tiles": 9})
    (clone / "flows" / "cli" / "__main__.py").write_text(text)
    done = compare("fast", "--turns", "1", "--json")
    assert json.loads(done.stdout)["figures"][0]["ratio"] == 2


@pytest.mark.parametrize(
    ("revision", "kind", "says"),
    [
        ("nowhere", "InvalidSettings", "name commits, tags or branches"),
        ("broken", "BenchFailed", "broken: `bench engine` ended with status 1 and said: no such thing"),
    ],
)
def test_what_cannot_be_measured_is_told(clone: Path, revision: str, kind: str, says: str) -> None:
    done = compare("fast", revision)
    assert type(done.exception).__name__ == kind and says in str(done.exception)
    assert len(git("worktree", "list", at=clone).splitlines()) == 1


def test_numbers_go_by_their_paths_and_words_are_left_out() -> None:
    record = {"machine": "x", "good": True, "none": None, "a": {"b": [1, {"name": "n", "s": 2.5}]}}
    assert dict(figures_of(record)) == {"a.b.0": 1.0, "a.b.n.s": 2.5}


def test_only_ranges_that_do_not_touch_are_clear() -> None:
    assert Compared("t", (1.0, 2.0), (2.1, 3.0)).clear and not Compared("t", (1.0, 2.0), (2.0, 3.0)).clear
    assert Compared("t", (0.0,), (0.0,)).ratio == 1
