"""Hooks of MkDocs: generated pages, notebooks as pages, links into the repository as plain paths."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from infra.docs.generated import PAGES  # noqa: E402 - after the path above

#: A link to what is in the repository, but not in the documentation.
_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+((?!\.\.)[^)#]+)(?:#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from code, and a page for every notebook."""
    for name, make in PAGES.items():
        files.append(File.generated(config, name, content=make()))
    slider = (ROOT / "flows" / "templates" / "image-compare.js").read_text("utf-8")
    files.append(File.generated(config, "assets/image-compare.js", content=slider))
    for notebook in sorted(Path(config.docs_dir, "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=notebook_page(notebook)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Show links that leave the documentation as paths in the repository."""
    folder = Path(page.file.src_uri).parent

    def shown(link: re.Match[str]) -> str:
        target = Path(link[0].split("](", 1)[1].rstrip(")").split("#")[0])
        inside = (ROOT / "docs" / folder / target).resolve().is_relative_to(ROOT / "docs")
        return link[0] if inside else f"`{link[2]}`"

    return _OUTSIDE.sub(shown, markdown)


def notebook_page(path: Path) -> str:
    """Return an executed notebook as Markdown; pictures stand in the page itself."""
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.source.strip():
            parts.append(f"```python\n{cell.source}\n```")
            parts += [text for output in cell.outputs if (text := _output(output))]
    return "\n\n".join(parts) + "\n"


def _output(output: Any) -> str:
    if output.output_type == "stream":
        return f"```text\n{output.text.rstrip()}\n```" if output.name == "stdout" else ""
    data = output.get("data", {})
    if "image/png" in data:
        return f'<img alt="output" src="data:image/png;base64,{data["image/png"].strip()}">'
    if "text/html" in data:
        # Blank lines would end a block of HTML in Markdown.
        html = re.sub(r"\n\s*\n", "\n", data["text/html"])
        return f'<div class="output">{html}</div>'
    return f"```text\n{data['text/plain']}\n```" if "text/plain" in data else ""
