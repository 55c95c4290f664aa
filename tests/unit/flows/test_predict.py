"""`unveil predict` on files of every kind, through the command line."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from PIL import Image
from rasterio.io import MemoryFile

from de_model import checkpoint
from de_model.card import ModelCard
from de_model.enhancer import Enhancer
from de_model.presets import Preset
from de_model.validation import UNVALIDATED, Figures, Filler, KindRecord, ValidationRecord, validation_path
from flows.cli import main
from tests.command import Outcome

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]

RGB, MULTI = ("red", "green", "blue"), ("blue", "green", "red", "nir")
TRANSFORM = Affine(10, 0, 500000, 0, -10, 5100000)
QUICK = ["--steps", "1", "--samples", "1"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Weights of tiny models by number of bands."""
    folder, files = tmp_path_factory.mktemp("weights"), {}
    for bands in (("pan",), RGB, MULTI):
        torch.manual_seed(2)
        model = Enhancer(ModelCard(Preset.TINY, bands, 10.0)).eval().requires_grad_(False)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        files[len(bands)] = folder / f"tiny{len(bands)}.safetensors"
        checkpoint.save(model, files[len(bands)])
    return files


Predict = Callable[..., Outcome]


@pytest.fixture
def predict(
    weights: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Predict:
    """Run the command on files of the test's folder, in this process, by the same entry point."""

    def run(*arguments: object, bands: int = 4, out: str = "out", mask: str | None = None) -> Outcome:
        options = ["--weights", weights[bands], "--out", out, *([] if mask is None else ["--mask", mask])]
        monkeypatch.chdir(tmp_path)
        # What the test names wins: it is given last.
        monkeypatch.setattr(sys, "argv", ["unveil", "predict", *map(str, [*options, *QUICK, *arguments])])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return Outcome(int(stopped.value.code or 0), printed.out, printed.err)

    return run


def records(outcome: Outcome) -> list[dict[str, Any]]:
    """The document of a command that was called with `--json`."""
    assert outcome.status == 0, outcome.err
    return list(outcome.document)


def picture(path: Path, shape: tuple[int, ...] = (40, 50, 3), **options: Any) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def raster(path: Path, pixels: np.ndarray, driver: str = "GTiff", **profile: Any) -> None:
    """Write pixels `(band, y, x)`."""
    names = profile.pop("descriptions", None)
    shape = {"count": pixels.shape[0], "height": pixels.shape[1], "width": pixels.shape[2]}
    with MemoryFile() as memory:
        with memory.open(driver=driver, dtype=pixels.dtype, **shape, **profile) as target:
            target.write(pixels)
            if names:
                target.descriptions = names
            if driver == "GTiff":
                target.update_tags(ACQUIRED="2023-08-10")
        path.write_bytes(memory.read())


def scene(dtype: str = "uint16", height: int = 40, width: int = 50) -> np.ndarray:
    values = np.random.default_rng(1).uniform(0.02, 0.9, (4, height, width))
    return values.astype(dtype) if dtype.startswith("float") else (values * 10_000).astype(dtype)


def mask(path: Path, height: int = 40, width: int = 50) -> np.ndarray:
    hidden = np.zeros((height, width), np.uint8)
    hidden[5:20, 8:30] = 255
    Image.fromarray(hidden).save(path)
    return hidden > 0


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as source:
        return np.asarray(source.read())


def one_sentence(outcome: Outcome, status: int, *words: str) -> None:
    """The command failed with `status`, one line that holds all words, and no traceback."""
    assert outcome.status == status, outcome.err
    lines = [line for line in outcome.err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("unveil: "), outcome.err
    assert all(word in lines[0] for word in words), lines[0]


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


def test_a_geotiff_keeps_everything_but_the_masked_pixels(
    tmp_path: Path, weights: dict[int, Path], predict: Predict
) -> None:
    before = scene()
    before[:, :3, :3] = 0
    before[2, 8, 10] = 0
    raster(tmp_path / "s.tif", before, crs="EPSG:32633", transform=TRANSFORM, nodata=0, descriptions=MULTI)
    hidden = mask(tmp_path / "m.png")
    (record,) = records(predict("s.tif", "--json", mask="m.png"))
    written = tmp_path / "out" / "s.restored.tif"
    with rasterio.open(written) as source:
        assert (source.crs.to_epsg(), source.transform, source.nodata) == (32633, TRANSFORM, 0)
        assert source.dtypes == ("uint16",) * 4 and source.descriptions == MULTI
        assert source.tags()["ACQUIRED"] == "2023-08-10"
        after = source.read()
    assert np.array_equal(after[:, ~hidden], before[:, ~hidden])
    assert (after[:, hidden] != before[:, hidden]).mean() > 0.9
    assert np.array_equal(after == 0, before == 0), "nodata is kept, and no restored sample takes its value"
    assert record == json.loads((tmp_path / "out" / "s.restored.json").read_text())
    assert record["input"]["sha256"] == hashlib.sha256((tmp_path / "s.tif").read_bytes()).hexdigest()
    assert record["output"]["sha256"] == hashlib.sha256(written.read_bytes()).hexdigest()
    assert record["model"]["sha256"] == checkpoint.sha256_of(weights[4]) and record["sampling"]["steps"] == 1
    assert record["figures"]["restored_pixels"] == hidden.sum() and record["signatures"]["colour_shift"] >= 0


def test_masked_pixels_are_filled_by_what_was_validated(
    tmp_path: Path, weights: dict[int, Path], predict: Predict
) -> None:
    values = np.broadcast_to(np.array([500, 800, 900, 3000], np.uint16)[:, None, None], (4, 40, 50)).copy()
    hidden = mask(tmp_path / "m.png")
    values[:, hidden] = 9000
    raster(tmp_path / "s.tif", values)
    own = tmp_path / weights[4].name
    own.write_bytes(weights[4].read_bytes())
    command = ("s.tif", "--weights", own, "--json")
    for best, interpolated in ((None, int(hidden.sum())), (Filler.DE, 0), (Filler.FILLNODATA, int(hidden.sum()))):
        if best is not None:
            figures = {Filler.FLAT: Figures(0.02, 30.0), best: Figures(0.01, 36.0)}
            kinds = {kind: KindRecord(1, 1, 1, figures) for kind in UNVALIDATED}
            ValidationRecord(checkpoint.sha256_of(own), MULTI, "a test", kinds).save(validation_path(own))
        (document,) = records(predict(*command, mask="m.png"))
        assert document["fillers"]["pixels"] == {"interpolated": interpolated, "model": hidden.sum() - interpolated}
        flat = (read(tmp_path / "out" / "s.restored.tif") == values[:, :1, :1]).all()
        assert flat == (best is not Filler.DE), "without a record the ground around fills the mask"
    assert records(predict(*command, "--gaps", "model", mask="m.png"))[0]["fillers"]["kinds"] == {}
    one_sentence(predict(*command, "--gaps", "best"), 2, "Setting gaps is 'best'", "validated")


def test_an_image_that_is_hidden_everywhere_is_the_models(tmp_path: Path, predict: Predict) -> None:
    """Without clear ground the flat colour, which the record of the shipped weights names, is not known."""
    raster(tmp_path / "s.tif", scene())
    shipped = ("--weights", checkpoint.shipped_weights(), "--json")
    Image.fromarray(np.full((40, 50), 255, np.uint8)).save(tmp_path / "all.png")
    for mask in (None, "all.png"):
        (document,) = records(predict("s.tif", *shipped, mask=mask))
        assert document["fillers"] == {"kinds": {}, "pixels": {"interpolated": 0, "model": 40 * 50}}
        assert read(tmp_path / "out" / "s.restored.tif").std() > 0


@pytest.mark.parametrize("kind", ["png", "JPG", "sixteen bits"])
def test_a_picture_comes_back_as_png_with_the_observed_pixels(tmp_path: Path, predict: Predict, kind: str) -> None:
    name = "p.JPG" if kind == "JPG" else "p.png"
    if kind == "sixteen bits":
        random = np.random.default_rng(0)
        raster(tmp_path / name, random.integers(0, 65536, (3, 40, 50)).astype(np.uint16), driver="PNG")
    else:
        picture(tmp_path / name, format="JPEG" if kind == "JPG" else "PNG")
    hidden = mask(tmp_path / "m.png")
    assert predict(name, bands=3, mask="m.png").status == 0
    before, after = read(tmp_path / name), read(tmp_path / "out" / "p.restored.png")
    assert after.dtype == before.dtype and np.array_equal(after[:, ~hidden], before[:, ~hidden])
    assert (after[:, hidden] != before[:, hidden]).any()
    assert kind != "sixteen bits" or len(np.unique(after[:, hidden] % 256)) > 100


def test_any_size_and_one_band(tmp_path: Path, predict: Predict) -> None:
    """Wider than a tile, lower than one, no mask: everything is restored."""
    picture(tmp_path / "wide.png", (33, 201))
    (record,) = records(predict("wide.png", "--json", bands=1, out="new/out"))
    assert record["figures"]["restored_pixels"] == 33 * 201 and record["figures"]["tiles"] == 2
    assert record["signatures"] is None and record["mask"] is None
    assert read(tmp_path / "new" / "out" / "wide.restored.png").shape == (1, 33, 201)


def test_floats_without_projection_and_with_nan_as_nodata(tmp_path: Path, predict: Predict) -> None:
    before = scene("float32")
    before[:, 10, 10] = np.nan
    raster(tmp_path / "f.tif", before, nodata=np.nan)
    assert predict("f.tif").status == 0
    after = read(tmp_path / "out" / "f.restored.tif")
    assert after.dtype == np.float32 and np.array_equal(np.isnan(after), np.isnan(before))
    assert np.nanmin(after) >= 0 and np.nanmax(after) <= 1


def test_the_seed_decides_and_equal_commands_give_equal_bytes(tmp_path: Path, predict: Predict) -> None:
    picture(tmp_path / "p.png")
    found = [records(predict("p.png", "--seed", seed, "--json", bands=3)) for seed in (1, 1, 2)]
    digests = [record["output"]["sha256"] for (record,) in found]
    assert digests[0] == digests[1] != digests[2]


def test_bands_are_put_in_the_models_order(tmp_path: Path, predict: Predict) -> None:
    """The same scene with its bands stored the other way round gives the same pixels."""
    before = scene()
    raster(tmp_path / "a.tif", before, descriptions=MULTI)
    raster(tmp_path / "b.tif", before[::-1].copy(), descriptions=MULTI[::-1])
    found = records(predict("a.tif", "b.tif", "--json"))
    assert [r["band_order"] for r in found] == [[1, 2, 3, 4], [4, 3, 2, 1]]
    one, other = (read(tmp_path / "out" / f"{name}.restored.tif") for name in "ab")
    assert np.array_equal(one, other[::-1])


@pytest.mark.parametrize(
    ("names", "colours"),
    [
        (("B4", "B3", "B2", "B8"), False),
        (("B04", "B03", "B02", "B08"), False),
        (("SR_B4", "SR_B3", "SR_B2", "SR_B5"), False),
        (("Red (band 4)", "Green", "Blue", "Near infrared"), False),
        (None, True),
        (("red", "green", "blue", "nir"), True),
    ],
)
def test_numbers_and_colours_of_bands_are_understood(
    tmp_path: Path, predict: Predict, names: tuple[str, ...] | None, colours: bool
) -> None:
    profile = {"photometric": "RGB", "nodata": None} if colours else {}
    raster(tmp_path / "a.tif", scene()[[2, 1, 0, 3]], descriptions=names, **profile)
    assert records(predict("a.tif", "--json"))[0]["band_order"] == [3, 2, 1, 4]


@pytest.mark.parametrize(
    ("names", "colours", "says"),
    [
        (("B4", "B3", "B2", "B11"), False, "B2"),
        (("B4", "B3", "B2", ""), False, "B2"),
        (("blue", "green", "red", "nir"), True, "coloured"),
        (("blue", "green", "red", "swir16"), False, "swir16"),
    ],
)
def test_bands_that_are_named_wrongly_or_twice_are_refused(
    tmp_path: Path, predict: Predict, names: tuple[str, ...], colours: bool, says: str
) -> None:
    raster(tmp_path / "a.tif", scene(), descriptions=names, **({"photometric": "RGB"} if colours else {}))
    one_sentence(predict("a.tif"), 2, "a.tif", says)


def test_folders_of_images_and_masks_are_paired_by_name(tmp_path: Path, predict: Predict) -> None:
    for name in ("in", "masks"):
        (tmp_path / name).mkdir()
    for stem in ("a", "b"):
        picture(tmp_path / "in" / f"{stem}.png")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    mask(tmp_path / "masks" / "a.png")
    one_sentence(predict("in", mask="masks", bands=3), 2, "b.png", "0 masks")
    assert files(tmp_path / "out") == []
    mask(tmp_path / "masks" / "b.png")
    assert predict("in", mask="masks", bands=3).status == 0
    assert files(tmp_path / "out") == ["a.restored.json", "a.restored.png", "b.restored.json", "b.restored.png"]


def test_declared_and_given_scales_are_used(tmp_path: Path, predict: Predict) -> None:
    raster(tmp_path / "s.tif", scene("int16"))
    with rasterio.open(tmp_path / "s.tif", "r+") as target:
        target.scales, target.offsets = (2e-4,) * 4, (-0.1,) * 4
    expected = {(): (2e-4, -0.1, "declared by the file"), ("--scale", "0.0001"): (1e-4, 0.0, "given")}
    for option, values in expected.items():
        found = records(predict("s.tif", "--json", *option))[0]["scale"]
        assert (found["scales"][0], found["offsets"][0], found["origin"]) == values
    with rasterio.open(tmp_path / "out" / "s.restored.tif") as source:
        assert source.scales == (2e-4,) * 4 and source.offsets == (-0.1,) * 4


def test_the_size_of_a_pixel_is_that_of_the_file(tmp_path: Path, predict: Predict) -> None:
    found, hidden = {}, np.zeros((1, 40, 50), np.uint8)
    hidden[:, 5:20, 8:30] = 1
    files = (("fine", "EPSG:32633", 10), ("coarse", "EPSG:32633", 120), ("degrees", "EPSG:4326", 1e-4), ("none", "", 1))
    for name, crs, side in files:
        grid: dict[str, Any] = {"crs": crs, "transform": Affine(side, 0, 15, 0, -side, 45)} if crs else {}
        raster(tmp_path / f"{name}.tif", scene(), descriptions=MULTI, **grid)
        raster(tmp_path / "cloud.tif", hidden, **grid)
        shipped = ("--weights", checkpoint.shipped_weights(), "--gaps", "model")
        (record,) = records(predict(f"{name}.tif", "--json", *shipped, mask="cloud.tif"))
        found[name] = record["input"]["gsd_m"], read(tmp_path / "out" / f"{name}.restored.tif")
    fine, coarse, degrees, none = found.values()
    # A degree is 111.1 km from south to north, and 78.8 km from west to east at 45 degrees.
    assert (fine[0], coarse[0], degrees[0], none[0]) == (10, 120, pytest.approx(9.36, abs=0.01), None)
    assert not np.array_equal(fine[1], coarse[1]) and not np.array_equal(fine[1], degrees[1])
    assert np.array_equal(fine[1], none[1]), "the size that the weights are for"
    said = predict("none.tif", *shipped, out="again", mask="cloud.tif").out
    assert "does not say how large its pixels are; 10 m were taken" in " ".join(said.split())


def test_masks_that_do_not_fit_are_refused(tmp_path: Path, predict: Predict) -> None:
    raster(tmp_path / "s.tif", scene(), crs="EPSG:32633", transform=TRANSFORM)
    mask(tmp_path / "small.png", 39, 50)
    elsewhere = Affine(10, 0, 500010, 0, -10, 5100000)
    raster(tmp_path / "moved.tif", np.ones((1, 40, 50), np.uint8), crs="EPSG:32633", transform=elsewhere)
    one_sentence(predict("s.tif", mask="small.png"), 2, "39 x 50", "40 x 50", "small.png")
    one_sentence(predict("s.tif", mask="moved.tif"), 2, "moved.tif", "elsewhere")
    one_sentence(predict("s.tif", mask="none.png"), 2, "none.png", "No such file")
    unknown = np.full((1, 40, 50), 255, np.uint8)
    unknown[0, 5:20, 8:30] = 1
    raster(tmp_path / "nodata.tif", unknown, nodata=255)
    one_sentence(predict("s.tif", mask="nodata.tif"), 2, "nodata.tif", "nodata value 255", "write 0")
    assert files(tmp_path / "out") == []


def test_pixels_that_do_not_fit_are_refused(tmp_path: Path, predict: Predict) -> None:
    raster(tmp_path / "nan.tif", np.where(scene("float32") > 0.89, np.nan, scene("float32")))
    one_sentence(predict("nan.tif"), 2, "nan.tif", "NaN", "nodata")
    for name, empty, kind in (("deep.tif", -9999.0, "float32"), ("short.tif", -9999, "int16")):
        pixels = scene(kind)
        pixels[:, :4] = empty
        raster(tmp_path / name, pixels)
        one_sentence(predict(name), 2, name, "a value is reflectance -", "declare it as nodata")
    raster(tmp_path / "full.tif", (scene("float32") * 65535).astype(np.uint16))
    one_sentence(predict("full.tif"), 2, "full.tif", "exceed reflectance 1", "--scale")
    one_sentence(predict("full.tif", "--scale", "nan"), 2, "--scale", "positive")
    raster(tmp_path / "bytes.tif", (scene("float32") * 255).astype(np.uint16))
    one_sentence(predict("bytes.tif"), 2, "bytes.tif", "8-bit", "--scale")
    raster(tmp_path / "long.tif", scene().astype(np.int32))
    one_sentence(predict("long.tif"), 2, "long.tif", "int32")
    picture(tmp_path / "p.png")
    one_sentence(predict("p.png"), 2, "p.png has 3 bands", "restores 4 (blue, green, red, nir)")
    picture(tmp_path / "alpha.png", (40, 50, 4))
    one_sentence(predict("alpha.png"), 2, "alpha.png", "alpha")
    assert files(tmp_path / "out") == []


def test_damaged_images_are_refused(tmp_path: Path, predict: Predict) -> None:
    """GDAL alone reads a PNG that is cut off and makes up the rest."""
    picture(tmp_path / "good.png")
    picture(tmp_path / "good.jpg", format="JPEG")
    raster(tmp_path / "good.tif", scene()[:3])
    for name in ("png", "jpg", "tif"):
        content = (tmp_path / f"good.{name}").read_bytes()
        (tmp_path / f"cut.{name}").write_bytes(content[: len(content) // 2])
        one_sentence(predict(f"cut.{name}", bands=3), 1, f"cut.{name} cannot be read")
    (tmp_path / "text.png").write_text("not an image")
    one_sentence(predict("text.png", bands=3), 2, "text.png is not a GeoTIFF, PNG or JPEG")
    one_sentence(predict("none.tif", bands=3), 2, "none.tif", "No such file")
    assert files(tmp_path / "out") == []


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, weights: dict[int, Path], predict: Predict) -> None:
    picture(tmp_path / "p.png")
    (tmp_path / "cut.safetensors").write_bytes(weights[3].read_bytes()[:-100])
    (tmp_path / "text.safetensors").write_text("not weights at all, but long enough to look at")
    for name in ("none.safetensors", "cut.safetensors", "text.safetensors"):
        one_sentence(predict("p.png", "--weights", name), 2, name)
    assert not (tmp_path / "out").exists()


def test_nothing_to_do_and_clashing_names_are_refused(tmp_path: Path, predict: Predict) -> None:
    (tmp_path / "empty").mkdir()
    one_sentence(predict("empty"), 2, "No image", "empty")
    assert predict().status == 2
    for name in ("p.png", "p.jpg", "p.restored.png"):
        picture(tmp_path / name)
    one_sentence(predict("p.png", "p.jpg", bands=3), 2, "p.restored.png", "taken by")
    one_sentence(predict("p.png", "p.restored.png", bands=3, out="."), 2, "p.restored.png", "taken by")
    one_sentence(predict("p.png", "--steps", "5000", bands=3), 2, "5000")
    assert files(tmp_path / "out") == []


def test_a_folder_that_cannot_be_written_is_reported_and_nothing_is_left(tmp_path: Path, predict: Predict) -> None:
    picture(tmp_path / "p.png")
    (tmp_path / "file").write_text("in the way")
    one_sentence(predict("p.png", bands=3, out="file/out"), 1, "cannot be written")
    (tmp_path / "out" / "p.restored.json").mkdir(parents=True)
    one_sentence(predict("p.png", bands=3), 1, "p.restored.json", "cannot be written")
    assert files(tmp_path / "out") == ["p.restored.json"]
