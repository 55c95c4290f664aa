"""What independent validators say of a published catalog, as a page in docs/results.

Every document goes through stac-validator and pystac, every raster through rio-cogeo, every item through stac-js and
ol-stac (`tests/node/contract.mjs`), and the whole catalog through `unveil catalog check`. No network is needed: schemas
come from pystac and from `stac/schemas`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import pystac.validation
from rio_cogeo.cogeo import cog_validate
from stac_validator.validate import StacValidate

import stac
from flows.ops.serve.files import utm_definitions
from stac.catalog.check import check_catalog
from stac.catalog.validation import validate_document
from stac.errors import InvalidProduct
from tests.installed import require_node
from tests.support.serving import running

_NODE = Path(__file__).parents[1] / "node"
_TIMEOUT_S = 1800


@dataclass(frozen=True, slots=True)
class Row:
    """What one validator said."""

    validator: str
    #: What was put before it.
    subject: str
    checked: int
    #: One sentence for each refusal.
    refused: tuple[str, ...]


def local_schemas() -> dict[str, str]:
    """Return the file of every schema that is here, by the address it is known under."""
    core = Path(pystac.validation.__file__).parent / "jsonschemas"
    found = {f"https://geojson.org/schema/{path.name}": str(path) for path in core.glob("geojson/*.json")}
    for path in core.glob("stac-spec/v*/*.json"):
        # Not by `$id`: that of common.json is misspelt upstream.
        part = path.stem if path.stem in ("catalog", "collection") else "item"
        found[f"https://schemas.stacspec.org/{path.parent.name}/{part}-spec/json-schema/{path.name}"] = str(path)
    for path in (Path(stac.__file__).parent / "schemas").rglob("*.json"):
        found[str(json.loads(path.read_text("utf-8"))["$id"]).rstrip("#")] = str(path)
    return found


def published(root: Path) -> Iterator[Path]:
    """Yield the root, and every collection, node and item below it, over its links."""
    waiting = [root / "catalog.json"]
    while waiting:
        path = waiting.pop()
        yield path
        links = json.loads(path.read_text("utf-8"))["links"]
        waiting += [(path.parent / link["href"]).resolve() for link in links if link["rel"] in ("child", "item")]


def by_stac_validator(documents: Iterable[Path]) -> Row:
    """Ask stac-validator about each document and the extensions it declares."""
    schemas, refused, count, whole = local_schemas(), [], 0, 0
    for count, path in enumerate(documents, 1):  # noqa: B007 - counts
        declared = json.loads(path.read_text("utf-8")).get("stac_extensions", [])
        # An extension without a schema here would be fetched; `stac/schemas` holds all that we write.
        complete = all(uri.rstrip("#") in schemas for uri in declared)
        whole += complete
        judge = StacValidate(str(path), schema_map=dict(schemas), core=not complete)
        if not judge.run():
            refused.append(f"{path.name}: {judge.message[0].get('error_message')}")
    subject = f"documents, {whole} of them with all their extensions"
    return Row(f"stac-validator {version('stac-validator')}", subject, count, tuple(refused))


def by_pystac(documents: Iterable[Path]) -> Row:
    """Validate each document with pystac's validator, as publishing does."""
    refused, count = [], 0
    for count, path in enumerate(documents, 1):  # noqa: B007 - counts
        try:
            validate_document(json.loads(path.read_text("utf-8")))
        except InvalidProduct as error:
            refused.append(str(error))
    return Row(f"pystac {version('pystac')}", "documents", count, tuple(refused))


def by_rio_cogeo(rasters: Iterable[Path]) -> Row:
    """Ask rio-cogeo about each raster; a warning counts as a refusal."""
    refused, count = [], 0
    for count, path in enumerate(rasters, 1):  # noqa: B007 - counts
        valid, errors, warnings = cog_validate(str(path), strict=True, quiet=True)
        if not valid or errors or warnings:
            refused.append(f"{path.parent.name}/{path.name}: {'; '.join([*errors, *warnings])}")
    return Row(f"rio-cogeo {version('rio-cogeo')}, strict", "rasters", count, tuple(refused))


def by_node(root: Path) -> Row:
    """Ask the libraries of STAC Browser about every raster of every item."""
    pins = json.loads((_NODE / "package.json").read_text("utf-8"))["dependencies"]
    with tempfile.TemporaryDirectory() as folder, running(root, None) as url:
        definitions = Path(folder) / "utm.json"
        definitions.write_text(json.dumps(utm_definitions()), encoding="utf-8")
        command = [require_node(_NODE), str(_NODE / "contract.mjs"), f"{url}/catalog/catalog.json", str(definitions)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if not done.stdout:
        raise SystemExit(done.stderr)
    report = json.loads(done.stdout)
    refused = [f"{each['item']} {each['asset']}: {each['check']} ({each['found']})" for each in report["failures"]]
    name = f"stac-js {pins['stac-js']}, ol-stac {pins['ol-stac']}"
    return Row(
        name, f"checks of {report['rasters']} rasters of {report['items']} items", report["checks"], tuple(refused)
    )


def by_check(root: Path) -> Row:
    """Run the check of `unveil catalog check`."""
    report = check_catalog(str(root))
    counts = report.counts
    looked_at = counts.catalogs + counts.collections + counts.items + counts.assets
    refused = tuple(f"{each.code}: {each.place}: {each.message}" for each in report.problems)
    return Row("unveil catalog check", "documents and files", looked_at, refused)


def conformance(root: Path) -> list[Row]:
    """Put a catalog before every validator."""
    documents = list(published(root))
    rasters = sorted(path for document in documents for path in document.parent.rglob("*.tif"))
    judges: tuple[Callable[[], Row], ...] = (
        lambda: by_stac_validator(documents),
        lambda: by_pystac(documents),
        lambda: by_rio_cogeo(dict.fromkeys(rasters)),
        lambda: by_node(root),
        lambda: by_check(root),
    )
    return [judge() for judge in judges]


def page(rows: Iterable[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "# What validators say of a published catalog",
        "",
        "`python -m tests.load.conformance --catalog unveil-out --out docs/results`, on the catalog of `unveil demo`.",
        "",
        "| validator | what | checked | accepted |",
        "|---|---|---:|---:|",
    ]
    refused = []
    for row in rows:
        share = 100 * (row.checked - len(row.refused)) / row.checked if row.checked else 0
        lines.append(f"| {row.validator} | {row.subject} | {row.checked} | {share:g} % |")
        refused += [f"- {row.validator}: {sentence}" for sentence in row.refused]
    return "\n".join([*lines, "", *refused, ""]).rstrip() + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write conformance.md and conformance.json; 1 when anything was refused."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.conformance", description=__doc__)
    parser.add_argument("--catalog", type=Path, default=Path("unveil-out"), help="folder of a published catalog")
    parser.add_argument("--out", type=Path, required=True, help="folder of the page")
    given = parser.parse_args(arguments)
    rows = conformance(given.catalog)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "conformance.md").write_text(page(rows), encoding="utf-8")
    (given.out / "conformance.json").write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    sys.stdout.write(page(rows))
    return int(any(row.refused or not row.checked for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
