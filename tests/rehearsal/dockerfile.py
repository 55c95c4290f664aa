"""A Dockerfile and a .dockerignore, as far as infra/image uses them: stages of steps, and the files of the context."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True, slots=True)
class Step:
    """An instruction, e.g. `RUN`, and what follows it."""

    instruction: str
    text: str

    def options(self) -> tuple[dict[str, str], str]:
        """Return `--name=value` at the beginning, and the rest."""
        found, rest = {}, self.text
        while match := re.match(r"--([\w-]+)=(\S+)\s+", rest):
            found[match[1]] = match[2]
            rest = rest[match.end() :]
        return found, rest


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage: what it starts from, and its steps."""

    name: str
    base: str
    steps: list[Step] = field(default_factory=list)


def parse(text: str) -> list[Stage]:
    """Return the stages of a Dockerfile, the defaults of its global `ARG`s filled in.

    Raises:
        ValueError: an instruction before the first FROM that is not ARG.
    """
    given: dict[str, str] = {}
    stages: list[Stage] = []
    for step in _steps(text):
        if step.instruction == "FROM":
            base, _, name = expand(step.text, given).partition(" AS ")
            stages.append(Stage(name or str(len(stages)), base))
        elif stages:
            stages[-1].steps.append(step)
        elif step.instruction == "ARG":
            name, _, default = step.text.partition("=")
            given[name] = default
        else:
            raise ValueError(f"{step.instruction} stands before the first FROM")
    return stages


def _steps(text: str) -> Iterator[Step]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if line.strip():
            instruction, _, rest = line.strip().partition(" ")
            yield Step(instruction.upper(), rest.strip())


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Return the text with `$NAME` and `${NAME}` replaced; an unset one is empty."""
    return _VARIABLE.sub(lambda match: variables.get(match[1] or match[2], ""), text)


def pairs(text: str, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that an ENV or ARG sets."""
    found = {}
    for word in shlex.split(text):
        name, _, value = word.partition("=")
        found[name] = expand(value, variables)
    return found


@dataclass(frozen=True, slots=True)
class Ignore:
    """A .dockerignore: of the patterns that match a path or a folder above it, the last one counts."""

    patterns: tuple[tuple[bool, re.Pattern[str], str], ...]

    @classmethod
    def read(cls, path: Path) -> Ignore:
        """Read a file."""
        lines = (line.strip() for line in path.read_text("utf-8").splitlines())
        return cls(tuple(_pattern(line) for line in lines if line and not line.startswith("#")))

    def leaves_out(self, path: str) -> bool:
        """Whether a path, relative to the context, is not sent to the builder."""
        parts = path.split("/")
        above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        out = False
        for keeps, pattern, _ in self.patterns:
            if any(pattern.fullmatch(each) for each in above):
                out = not keeps
        return out

    def files(self, context: Path) -> list[str]:
        """Return the files of a context that are sent, sorted."""
        return sorted(self._walk(context, ""))

    def _walk(self, context: Path, folder: str) -> Iterator[str]:
        for entry in sorted((context / folder).iterdir()):
            path = f"{folder}/{entry.name}".lstrip("/")
            if entry.is_dir() and not entry.is_symlink():
                # A folder that is left out may hold something that a later pattern keeps.
                if not self.leaves_out(path) or any(
                    keeps and text.startswith(path) for keeps, _, text in self.patterns
                ):
                    yield from self._walk(context, path)
            elif not self.leaves_out(path):
                yield path


def _pattern(line: str) -> tuple[bool, re.Pattern[str], str]:
    keeps, text = line.startswith("!"), line.removeprefix("!").strip("/")
    tokens = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    regex = "".join(tokens.get(part) or re.escape(part) for part in re.split(r"(\*\*/|\*\*|\*|\?)", text))
    return keeps, re.compile(regex), text
