"""The check of words finds what people read, and leaves names in code alone."""

from __future__ import annotations

from pathlib import Path

from infra.lint import words


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
