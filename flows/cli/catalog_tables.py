"""What a check of a catalog looks like in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from flows.cli.console import output

if TYPE_CHECKING:
    from stac.catalog.check import CatalogReport


def print_report(report: CatalogReport) -> None:
    """Print what was looked at, and one row per problem."""
    if report.problems:
        table = Table("problem", "where", "what", title="Problems")
        for problem in report.problems:
            place = problem.place.removeprefix(report.catalog.rpartition("/")[0] + "/")
            table.add_row(f"[red]{problem.code}[/]", escape(place), escape(problem.message))
        output.print(table)
    counts = report.counts
    output.print(
        f"{counts.collections} collections, {counts.items} items, {counts.assets} assets ({counts.cogs} COGs), "
        f"{counts.bytes / 1e6:.1f} MB."
    )
    found = len(report.problems)
    output.print(f"{report.catalog}: {found or 'no'} problem{'' if found == 1 else 's'}.", markup=False)
