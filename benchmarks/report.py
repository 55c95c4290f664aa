"""Results pages: command line, tables in Markdown, and the files of a benchmark."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine


@dataclass(frozen=True, slots=True)
class Page:
    """A results page: paragraphs and tables in Markdown, and the same figures as JSON values."""

    title: str
    parts: tuple[str, ...]
    record: Any
    #: PNG that the page shows as NAME.png.
    picture: bytes | None = field(default=None, repr=False)

    def markdown(self, command: str) -> str:
        """Return the page with its command, date and machine."""
        made = f"Command: `{command}`; {datetime.now(UTC):%Y-%m-%d}; {machine()}, torch {torch.__version__}."
        return "\n\n".join([f"# {self.title}", made, *self.parts]) + "\n"


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """Return the command line that every benchmark has."""
    found = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    found.add_argument("--out", type=Path, help="folder for the results page; printed when left out")
    found.add_argument("--json", action="store_true", help="print the figures as JSON")
    return found


def command_of(name: str) -> str:
    """Return the command as it was given."""
    return shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]])


def publish(name: str, page: Page, options: argparse.Namespace) -> None:
    """Write NAME.md, NAME.json and NAME.png into the folder asked for, or print the page."""
    text = page.markdown(command_of(name))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{name}.md").write_text(text, "utf-8")
        (options.out / f"{name}.json").write_text(f"{json.dumps(finite(page.record), indent=2)}\n", "utf-8")
        if page.picture is not None:
            (options.out / f"{name}.png").write_bytes(page.picture)
    if options.json:
        sys.stdout.write(f"{json.dumps(finite(page.record), indent=2)}\n")
    elif options.out is None:
        sys.stdout.write(text)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def goal(value: str, reached: bool) -> str:
    """Return a goal with what became of it."""
    return f"{value}, {'reached' if reached else '**missed**'}"


def finite(value: Any) -> Any:
    """Return JSON values with null where a figure is infinite or not defined."""
    if isinstance(value, dict):
        return {str(name): finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
