"""What is wrong with a catalog that a test published."""

from __future__ import annotations

from pathlib import Path

from stac.catalog.check import ProblemKind, check_catalog

#: What readers may see while somebody publishes, and what the next run repairs: sums and links follow the items.
_ON_THE_WAY = frozenset({ProblemKind.ORPHAN, ProblemKind.COUNT, ProblemKind.EXTENT})


def problems_in(root: Path, *, publishing: bool = False) -> list[str]:
    """Return everything that is wrong with a catalog in a folder, nothing when all is well.

    Args:
        root: the folder.
        publishing: pass over what lasts until a publisher has finished, or the next run has repaired it.
    """
    found = check_catalog(root).problems
    return [f"{each.place}: {each.message}" for each in found if not (publishing and each.code in _ON_THE_WAY)]
