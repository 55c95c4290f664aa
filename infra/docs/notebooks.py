"""Execute the notebooks of the documentation in place: `make notebooks`."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "notebooks"


def executed(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Return a notebook with its outputs made anew; warnings and progress bars are left out.

    Args:
        path: the notebook.
        folder: it runs in.

    Raises:
        CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return notebook


def main(names: list[str]) -> None:
    """Execute some notebooks by name, or all of them, in a scratch folder."""
    import tempfile

    for path in sorted(FOLDER.glob("*.ipynb")):
        if not names or path.stem in names:
            with tempfile.TemporaryDirectory() as scratch:
                text = nbformat.writes(executed(path, Path(scratch)))
                # Where this machine has its files concerns no reader.
                path.write_text(text.replace(str(ROOT), "unveil").replace(scratch, "scratch") + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
