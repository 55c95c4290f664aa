"""What the documentation says is so: links, commands, words; the site builds and needs no network."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

from flows.cli import app
from infra.lint import words
from tests.command import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Pages that the site makes of code and notebooks, and those of other helpers that may be absent.
GENERATED = {"reference/commands.md", "reference/settings.md", "reference/layers.md", "reference/metrics.md"}
GENERATED |= {f"notebooks/{path.stem}.md" for path in (ROOT / "docs" / "notebooks").glob("*.ipynb")}

_UsageError = typer.BadParameter.__base__


def code_of(page: Path) -> Iterator[str]:
    """Yield every line of a page's code blocks, continued lines joined, and its inline code."""
    text = page.read_text("utf-8")
    for block in re.findall(r"^ *```(?:sh|text)?\n(.*?)^ *```|^((?:    .*\n)+)", text, re.MULTILINE | re.DOTALL):
        yield from "".join(block).replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def commands_in(page: Path) -> list[str]:
    """Return what follows `unveil` in every command of a page that has more than a name."""
    found = []
    for line in code_of(page):
        match = re.search(r"(?:^|\s|bin/)(?<!namespace )unveil (?=[a-z]+(?:\s|$))([^`|;>&]*)", line)
        if match and not re.search(r"\.\.\.|…|\b(COMMAND|NAME)\b", match[0]) and "`" not in line:
            found.append(match[1])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_is_one_that_the_program_understands(page: Path) -> None:
    root = typer.main.get_command(app)
    for text in commands_in(page):
        name, *words = shlex.split(text, comments=True) or [""]
        group = root
        while hasattr(group.commands.get(name), "commands"):
            group, (name, *words) = group.commands[name], words or [""]
        if group is not root and not name:
            continue
        assert name in group.commands, f"{page.name}: unveil {text}"
        try:
            _, command, rest = group.resolve_command(group.context_class(group), [name, *words])
            command.make_context(name, [re.sub(r"^N$", "1", word.strip("[]")) for word in rest])
        except _UsageError as error:
            # `unveil register` in a sentence names the command, it is not a call.
            assert error.format_message().startswith("Missing"), f"{page.name}: unveil {text}: {error.format_message()}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if path.is_relative_to(ROOT / "docs") and str(path.relative_to(ROOT / "docs")) in GENERATED:
            continue
        assert path.exists(), f"{page.relative_to(ROOT)} links to {target}"
        if anchor and path.suffix == ".md":
            heads = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", head.lower()).strip().replace(" ", "-") for head in heads}
            assert anchor in slugs, f"{page.relative_to(ROOT)} links to {target}"


def test_every_make_target_and_module_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in PAGES:
        for line in code_of(page):
            for target in re.findall(r"(?:^|&& )make ([a-z][a-z-]+)", line):
                assert target in targets, f"{page.name}: make {target}"
            for module in re.findall(r"python -m ((?:benchmarks|tests|infra)[\w.]*)", line):
                assert find_spec(module.removesuffix(".NAME").rstrip(".")), f"{page.name}: python -m {module}"


class _Fetched(HTMLParser):
    """Collects what a page makes a browser fetch from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        wanted = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}.get(tag)
        for name, value in attrs:
            if name == wanted and re.match(r"(https?:)?//", value or "") and dict(attrs).get("rel") != "canonical":
                self.outside.append(value or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_builds_and_fetches_nothing(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        fetched = _Fetched()
        fetched.feed(page.read_text("utf-8"))
        assert fetched.outside == [], page.name


def test_the_reference_holds_what_the_code_has(site: Path) -> None:
    text = {
        name: (site / "reference" / f"{name}.html").read_text("utf-8") for name in ("commands", "settings", "metrics")
    }
    assert all(f"unveil {name}" in text["commands"] for name in ("run", "predict", "catalog check", "retrain"))
    assert all(f">{name}<" in text["settings"] for name in ("max_cloud", "ledger_url", "gate_max_seam_ratio"))
    assert "unveil_units_restored_total" in text["metrics"]
    python = (site / "reference" / "python.html").read_text("utf-8")
    assert all(f'id="{name}"' in python for name in ("flows.api.restore", "flows.api.publish", "stac.api.load"))


def test_prose_is_looked_at_and_code_is_not(tmp_path: Path) -> None:
    page, module = tmp_path / "page.md", tmp_path / "module.py"
    page.write_text("It tells a story.\nSee `tell` and [this](tell.md).\n```sh\ntell\n```\nNobody walks.\n")
    module.write_text(
        '"""Mend what is amiss."""\n\n\ndef tell(donor: str) -> str:  # told later\n    prior = "prior"\n'
        '    return f"{prior} the donors of {donor}, no worse than `walk`"\n'
    )
    assert words.findings(page) == [(1, "tells"), (6, "Nobody"), (6, "walks")]
    assert sorted(words.findings(module)) == [(1, "Mend"), (1, "amiss"), (4, "told"), (6, "donors")]


def test_the_repository_has_none() -> None:
    assert words.main() == 0
