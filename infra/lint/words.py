"""Retired words in what people read: documents, docstrings, comments, help and messages (docs/glossary.md).

`python -m infra.lint.words` fails where it finds one. Of names in code only those of tests are looked at.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FOLDERS = ("flows", "stac", "de_model", "benchmarks", "infra")
#: The glossary and this file name the words; pages of results are made by commands.
_EXEMPT = ("docs/glossary.md", "docs/results/", "infra/lint/", "flows/ops/serve/browser/", "node_modules/")

#: What is found (a regular expression between word borders) -> what to write instead.
RETIRED = {
    r"tell|tells|told|untold|unheard": "report, log, notify, return whether",
    r"mend|mends|mended|mending|upkeep": "repair, fix",
    r"amiss|flaw|flaws": "findings, what is wrong",
    r"donors?": "source date",
    r"priors?": "composite",
    r"harmonisation": "normalisation",
    r"obscured": "hidden by clouds",
    r"allocation": "blending weight W",
    r"shelf|shelves": "collection",
    r"settle|settles|settled": "finish, reconcile",
    r"heed|heeds|heeded": "reconcile",
    r"patience": "retry policy",
    r"pace": "rate limit",
    r"walk|walks|walked": "sampling schedule, follow",
    r"contests?|trials?": "evaluation, comparison",
    r"nobody": "no reader, no process",
    r"(?<!there )is no(?= (?!longer|more|less|later|better|worse)[a-z])": "is not a",
    r"any more|the dead": "no longer, without",
    r"nominate|nominated": "set as challenger",
}
_PATTERN = re.compile(rf"\b(?:{'|'.join(RETIRED)})\b", re.IGNORECASE)


def findings(path: Path) -> list[tuple[int, str]]:
    """Return line and word of every retired word in what people read of a file; of a test that is its name."""
    text = path.read_text("utf-8")
    if path.name.startswith("test_"):
        names = ((number, re.match(r" *def test_(\w+)", line)) for number, line in enumerate(text.splitlines(), 1))
        return [(line, word[0]) for line, m in names if m for word in _PATTERN.finditer(m[1].replace("_", " "))]
    prose = _python_prose(text) if path.suffix == ".py" else _markdown_prose(text)
    return [(line, match[0]) for line, part in prose for match in _PATTERN.finditer(part)]


def _markdown_prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield lines outside of code blocks, without inline code and the targets of links."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith("    "):
            yield number, re.sub(r"`[^`]*`|\]\([^)]*\)", " ", line)


def _python_prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield comments, and strings of several words: docstrings, help, messages."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], re.sub(r"`[^`]*`", " ", token.string)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            for offset, line in enumerate(re.sub(r"`[^`\n]*`", " ", node.value).splitlines()):
                # An argument's name and a command are code.
                yield node.lineno + offset, re.sub(r"^ +\w+: |^ +unveil .*", "", line)


def files() -> Iterator[Path]:
    """Yield every file with words for people."""
    yield from (ROOT / "README.md", ROOT / "CONTRIBUTING.md")
    yield from sorted((ROOT / "docs").rglob("*.md"))
    yield from sorted((ROOT / "tests").rglob("test_*.py"))
    for folder in _FOLDERS:
        yield from sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".j2", ".md"))


def _instead(word: str) -> str:
    return next(text for words, text in RETIRED.items() if re.match(rf"(?:{words})(?!\w)", f"{word} x", re.IGNORECASE))


def main() -> int:
    """Check all files; return the exit status."""
    wrong = False
    for path in files():
        name = str(path.relative_to(ROOT))
        if any(part in name for part in _EXEMPT):
            continue
        for line, word in findings(path):
            wrong = True
            sys.stdout.write(f"{name}:{line}: {word!r} is retired; write: {_instead(word)}\n")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
