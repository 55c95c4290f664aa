"""Shadow runs over a published catalog: both models make its scenes again, and the catalog stays as it is."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from de_model import checkpoint
from de_model.validation import UNVALIDATED, Figures, Filler, KindRecord, ValidationRecord, validation_path
from flows.models.registry import resolve
from flows.models.shadow import shadow_run
from flows.settings.loading import load_settings
from stac.catalog.publish import DEFAULT_COLLECTION
from tests.command import Run

pytestmark = pytest.mark.integration


def files_of(root: Path) -> dict[str, str]:
    found = (path for path in root.glob("[!.]*/**/*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_published_scenes_are_made_again_beside_each_other(tiny_run: Run, tmp_path: Path) -> None:
    settings = load_settings(None, {"out": str(tiny_run.root)})
    champion = resolve(settings)
    enhancer = checkpoint.load(Path(champion.weights))
    for parameter in enhancer.parameters():
        parameter.data *= 1.05
    weights = tmp_path / "other.safetensors"
    checkpoint.save(enhancer, weights)
    # Nothing says that the shipped weights beat the ground around; the other's record says that they do.
    figures = {Filler.FLAT: Figures(0.04, 25.0), Filler.DE: Figures(0.01, 35.0)}
    kinds = {kind: KindRecord(1, 1, 1, figures) for kind in UNVALIDATED}
    ValidationRecord(checkpoint.sha256_of(weights), enhancer.card.bands, "a test", kinds).save(validation_path(weights))
    other = replace(champion, version="2", weights=str(weights), sha256=checkpoint.sha256_of(weights))
    before = files_of(tiny_run.root)
    shadow = shadow_run(settings, champion, other, 1, tmp_path / "work", tmp_path)
    assert files_of(tiny_run.root) == before, "a shadow run publishes nothing"
    (scene,) = shadow.scenes
    assert not shadow.skipped and scene.target_id in scene.item_id
    assert scene.pixels > 0 and scene.difference > 0, "the products differ in gaps"
    assert scene.changed_pixels == 0, "and nowhere else"
    published = tiny_run.root / DEFAULT_COLLECTION / scene.item_id / "data.tif"
    assert (tmp_path / "work" / "0-champion" / "data.tif").read_bytes() == published.read_bytes()
    assert (tmp_path / f"shadow-{scene.item_id}.png").is_file()
    none = shadow_run(settings, champion, other, 0, tmp_path / "none", tmp_path)
    assert none.scenes == () and none.width_ratio is None
