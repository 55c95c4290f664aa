"""`stac.catalog.check` and its command find each kind of damage, and nothing else, on disk, in S3 and over HTTP."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pystac.validation
import pytest
from stac_validator.validate import StacValidate

import stac
from stac.catalog.check import CatalogReport, CheckOptions, ProblemKind, check_catalog
from stac.catalog.geoparquet import keep_mirror
from stac.catalog.publish import DEFAULT_COLLECTION, StaticCatalog
from stac.catalog.tree import MIRRORS
from stac.errors import SourceUnavailable, UnreadableCatalog
from stac.io.http import RetryPolicy
from stac.io.s3 import filesystem
from stac.product.assets import file_info
from tests.command import unveil
from tests.misbehaving_server import Asked, Reply, files, web_server
from tests.s3_server import S3Server
from tests.support.catalogs import problems_in
from tests.support.serving import running

pytestmark = pytest.mark.integration
QUICK = CheckOptions(checksums=False, retry_policy=RetryPolicy(timeout_s=5, retries=0))


@pytest.fixture
def catalog(tiny_run: Any, tmp_path: Path) -> Path:
    root = tmp_path / "catalog"
    shutil.copytree(tiny_run.root, root, ignore=shutil.ignore_patterns(".unveil", ".staging"))
    return root


def items(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("unveil-*/*/*.json") if path.stem == path.parent.name)


def kinds(report: CatalogReport) -> set[ProblemKind]:
    return {problem.code for problem in report.problems}


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text("utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def edit_item(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda root: edit(items(root)[0], change)


def relinked(rel: str, href: str) -> Callable[[dict[str, Any]], object]:
    def change(document: dict[str, Any]) -> None:
        for link in document["links"]:
            if link["rel"] == rel:
                link["href"] = href

    return change


def without(rel: str) -> Callable[[dict[str, Any]], object]:
    return lambda document: document.update(links=[link for link in document["links"] if link["rel"] != rel])


def flip_last_byte(root: Path) -> None:
    path = items(root)[0].parent / "data.tif"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def picture_as_tiff(root: Path) -> None:
    """Put a picture in the place of a COG, with its size and checksum."""
    item = items(root)[0]
    path = item.parent / "visual.tif"
    shutil.copyfile(item.parent / "thumbnail.png", path)
    edit(item, lambda document: document["assets"]["visual"].update(file_info(path)))


def unlink(root: Path) -> None:
    """Take the link to one item away, wherever it is."""
    name = items(root)[0].name
    for path in root.rglob("*.json"):
        if path.name in ("catalog.json", "collection.json"):
            edit(path, lambda d: d.update(links=[x for x in d["links"] if not x["href"].endswith(name)]))


def copy_of_an_item(root: Path) -> None:
    """Publish the same id a second time, in a folder of another name."""
    first = items(root)[0]
    shutil.copytree(first.parent, first.parent.with_name("copy"))
    (first.parent.with_name("copy") / first.name).rename(first.parent.with_name("copy") / "copy.json")
    link = {"rel": "item", "href": "./copy/copy.json", "type": "application/geo+json", "title": "copy"}
    edit(first.parents[1] / "collection.json", lambda document: document["links"].append(link))


def mirror_of_one(root: Path) -> None:
    """Take an item out of the catalog, and let the mirror be as it was."""
    keep_mirror(StaticCatalog(root))
    (mirror,) = root.glob(f"{DEFAULT_COLLECTION}/{MIRRORS}/*.parquet")
    before = mirror.read_bytes()
    StaticCatalog(root).withdraw(items(root)[0].stem)
    keep_mirror(StaticCatalog(root))
    mirror.write_bytes(before)


def mirror_cut_off(root: Path) -> None:
    keep_mirror(StaticCatalog(root))
    for file in root.glob(f"{DEFAULT_COLLECTION}/{MIRRORS}/*.parquet"):
        file.write_bytes(b"PAR1")


def narrow(document: dict[str, Any]) -> None:
    west, south, _, north = document["extent"]["spatial"]["bbox"][0]
    document["extent"]["spatial"]["bbox"] = [[west, south, west + 1e-3, north]]


DAMAGE: dict[str, tuple[Callable[[Path], None], set[ProblemKind]]] = {
    "a byte": (flip_last_byte, {ProblemKind.ASSET_CHECKSUM}),
    "a file less": (lambda root: (items(root)[0].parent / "data.tif").unlink(), {ProblemKind.ASSET_MISSING}),
    "a file cut off": (
        lambda root: (items(root)[0].parent / "report.html").write_text("<p>"),
        {ProblemKind.ASSET_SIZE},
    ),
    "no COG": (picture_as_tiff, {ProblemKind.COG}),
    "no JSON": (lambda root: items(root)[0].write_text("{"), {ProblemKind.UNREADABLE}),
    "no item": (lambda root: items(root)[0].unlink(), {ProblemKind.LINK_BROKEN}),
    "no link to an item": (unlink, {ProblemKind.ORPHAN, ProblemKind.COUNT, ProblemKind.MIRROR}),
    "an item twice": (
        copy_of_an_item,
        {ProblemKind.DUPLICATE, ProblemKind.COUNT, ProblemKind.LINK_WRONG},
    ),
    "no geometry": (edit_item(lambda item: item.pop("geometry")), {ProblemKind.SCHEMA}),
    "no seed": (edit_item(lambda item: item["properties"].pop("unveil:seed")), {ProblemKind.RULE}),
    "another root": (edit_item(relinked("root", "../collection.json")), {ProblemKind.LINK_WRONG}),
    "another collection": (edit_item(lambda item: item.update(collection="other")), {ProblemKind.LINK_WRONG}),
    "no parent": (edit_item(without("parent")), {ProblemKind.LINK_MISSING}),
    "a link to nothing": (
        edit_item(lambda item: item["links"].append({"rel": "via", "href": "./none.json", "title": "none"})),
        {ProblemKind.LINK_BROKEN},
    ),
    "a local file": (edit_item(relinked("parent", "/vsimem/x")), {ProblemKind.LINK_WRONG, ProblemKind.LINK_MISSING}),
    "a wrong count": (
        lambda root: edit(
            root / "unveil-cloud-free/collection.json", lambda c: c.update({"unveil:contents": {"items": 3}})
        ),
        {ProblemKind.COUNT},
    ),
    "a link that is not an object": (
        lambda root: edit(root / "unveil-cloud-free/collection.json", lambda c: c["links"].append("x")),
        {ProblemKind.SCHEMA},
    ),
    "a mirror of other items": (mirror_of_one, {ProblemKind.MIRROR}),
    "no mirror": (mirror_cut_off, {ProblemKind.MIRROR}),
    "too small a box": (
        lambda root: edit(root / "unveil-cloud-free/collection.json", narrow),
        {ProblemKind.EXTENT},
    ),
    "no collection": (
        lambda root: (root / "unveil-cloud-free/collection.json").unlink(),
        {ProblemKind.LINK_BROKEN, ProblemKind.ORPHAN},
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_each_damage_is_found_and_named(catalog: Path, damage: str) -> None:
    harm, expected = DAMAGE[damage]
    harm(catalog)
    report = check_catalog(str(catalog), CheckOptions(checksums=damage in ("a byte", "no COG")))
    assert kinds(report) == expected, report.problems
    assert all(problem.place.startswith(str(catalog)) and problem.message for problem in report.problems)


def test_a_sound_catalog_is_counted(catalog: Path) -> None:
    reported: list[tuple[int, int]] = []
    report = check_catalog(str(catalog), progress=lambda _, done, total: reported.append((done, total)))
    assert report.valid and report.catalog == str(catalog / "catalog.json")
    files = [path for item in items(catalog) for path in item.parent.iterdir() if path != item]
    counts = report.counts
    assert (counts.collections, counts.items, counts.assets) == (2, 3, len(files))
    assert counts.bytes == sum(path.stat().st_size for path in files)
    assert counts.cogs == len(list(catalog.glob("unveil-*/*/*.tif")))
    assert reported[-1] == (3, 3)


def test_nodes_between_collection_and_items_are_followed(catalog: Path) -> None:
    nodes = list(catalog.rglob("catalog.json"))
    assert len(nodes) > 1, "the items are listed by no node"
    assert check_catalog(str(catalog), QUICK).counts.catalogs == len(nodes)
    node = max(nodes, key=lambda path: len(path.parts))
    edit(node, relinked("parent", "../../../../catalog.json"))
    assert kinds(check_catalog(str(catalog), QUICK)) == {ProblemKind.LINK_WRONG}


def test_a_bucket_is_checked_like_a_folder(catalog: Path, s3: S3Server) -> None:
    s3.upload(catalog, s3.bucket("products"), "eo")
    options = CheckOptions(s3=s3.options)
    report = check_catalog("s3://products/eo", options)
    assert report.problems == () and report.counts == check_catalog(str(catalog)).counts
    first, second, _model = (f"products/eo/{item.relative_to(catalog)}" for item in items(catalog))
    client = filesystem(s3.options, 10)
    data = f"{first.rpartition('/')[0]}/data.tif"
    client.pipe_file(data, bytes(client.size(data)))
    client.rm_file(second)
    report = check_catalog("s3://products/eo/catalog.json", options)
    assert kinds(report) == {ProblemKind.ASSET_CHECKSUM, ProblemKind.COG, ProblemKind.LINK_BROKEN}
    assert all(problem.place.startswith("s3://products/eo/") for problem in report.problems)


def test_a_served_catalog_is_checked_to_the_byte(catalog: Path) -> None:
    with running(catalog, None) as url:
        report = check_catalog(f"{url}/catalog/catalog.json")
    assert report.problems == () and report.counts == check_catalog(str(catalog)).counts
    flip_last_byte(catalog)
    with running(catalog, None) as url:
        assert kinds(check_catalog(f"{url}/catalog/catalog.json")) == {ProblemKind.ASSET_CHECKSUM}


def test_a_server_without_ranges_is_reported(catalog: Path) -> None:
    with web_server(files(catalog, ranges=False)) as url:
        report = check_catalog(f"{url}catalog.json", QUICK)
    assert [problem.code for problem in report.problems] == [ProblemKind.ASSET_RANGES] * report.counts.cogs


def test_a_server_that_refuses_is_not_a_missing_file(catalog: Path) -> None:
    """Neither HEAD nor the reports are answered; everything else is, in parts."""

    def answer(asked: Asked) -> Reply:
        return Reply(403) if asked.path.endswith("report.html") else files(catalog)(asked)

    with web_server(answer) as url:
        report = check_catalog(f"{url}catalog.json", QUICK)
    assert [problem.code for problem in report.problems] == [ProblemKind.UNREACHABLE] * 2
    assert all("403" in problem.message for problem in report.problems)


def test_no_catalog_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnreadableCatalog, match="give the path of a catalog"):
        check_catalog(str(tmp_path / "none"))
    with pytest.raises(SourceUnavailable):
        check_catalog("http://127.0.0.1:9/catalog.json", QUICK)


def item_names(root: Path) -> list[str]:
    return sorted(path.parent.name for path in root.glob("unveil-*/*/*-unveil-*.json"))


def test_a_check_finds_one_changed_byte(catalog: Path, tmp_path: Path) -> None:
    good = unveil("catalog", "check", "--out", catalog, "--json", home=tmp_path / "home")
    assert good.status == 0 and good.document["valid"] and good.document["problems"] == []
    assert good.document["catalog"] == str(catalog / "catalog.json") and good.document["counts"]["items"] == 3
    path = next(catalog.glob("unveil-*/*/data.tif"))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    bad = unveil("catalog", "check", str(catalog), "--json", home=tmp_path / "home")
    assert bad.status == 1 and not bad.document["valid"]
    (problem,) = bad.document["problems"]
    assert problem == {
        "code": "asset-checksum",
        "place": str(path),
        "message": "asset data differs from its checksum",
    }
    table = unveil("catalog", "check", str(catalog), "--no-checksums", home=tmp_path / "home")
    assert table.status == 0 and "3 items" in table.out and "no problems" in table.out


@pytest.mark.parametrize("damaged", [False, True])
def test_a_retracted_item_is_gone_and_the_others_stay(damaged: bool, catalog: Path, tmp_path: Path) -> None:
    first, *others = item_names(catalog)
    if damaged:
        next(catalog.glob(f"unveil-*/{first}/{first}.json")).write_text('{"type": "Fea', "utf-8")
    done = unveil("retract", first, "--out", catalog, "--json", home=tmp_path / "home")
    assert done.status == 0 and done.document == {"retracted": [first]}
    assert item_names(catalog) == others and problems_in(catalog) == []
    assert not list(catalog.glob(f"unveil-*/{first}"))


def test_nothing_is_retracted_when_one_id_is_wrong(catalog: Path, tmp_path: Path) -> None:
    before = item_names(catalog)
    refused = unveil("retract", before[0], "no-such-item", "--out", catalog, home=tmp_path / "home")
    assert refused.status == 2 and "no item no-such-item" in refused.sentence
    assert item_names(catalog) == before


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


def accepted(path: Path) -> bool:
    """Return whether stac-validator accepts a document and all extensions that it declares."""
    schemas = local_schemas()
    declared = json.loads(path.read_text("utf-8")).get("stac_extensions", [])
    assert all(uri.rstrip("#") in schemas for uri in declared), "`stac/schemas` holds all that we write"
    return bool(StacValidate(str(path), schema_map=schemas).run())


@pytest.mark.filterwarnings("ignore:.*PyPI package has moved:DeprecationWarning")
def test_stac_validator_accepts_a_published_catalog_and_refuses_a_broken_item(tiny_run: Any, tmp_path: Path) -> None:
    documents = list(published(tiny_run.root))
    items = [path for path in documents if json.loads(path.read_text("utf-8"))["type"] == "Feature"]
    assert len(items) == 3 and [path for path in documents if not accepted(path)] == []
    broken = json.loads(items[0].read_text("utf-8"))
    del broken["geometry"]
    (tmp_path / "item.json").write_text(json.dumps(broken), encoding="utf-8")
    assert not accepted(tmp_path / "item.json")
