"""The command that restores single image files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import options as o
from flows.cli.console import output, print_json, progress_bar
from flows.cli.setting_options import Given, takes_settings


@takes_settings("samples", "steps", "sampler", "start", "eta", "tile", "overlap", "seed", "device", "gaps")
def predict(
    given: Given,
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Images, or folders of images.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.")],
    weights: Annotated[Path | None, typer.Option("--weights", help="Weights file; the shipped one.")] = None,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", help="Image, or folder of images by name: not 0 = restore. Left out: everything."),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(
            "--scale",
            help="Reflectance = stored value x scale. Left out: what the file declares, else 1/255 (8 bits), 0.0001 "
            "(16-bit GeoTIFF), 1/65535 (16-bit PNG), 1 (floating point).",
        ),
    ] = None,
    another_day: Annotated[
        bool,
        typer.Option(
            "--another-day/--same-day",
            help="Show the ground below clouds as another, clear day would, without haze, or in the light of the image "
            "itself, without a step at the edges.",
        ),
    ] = True,
    as_json: o.AsJson = False,
) -> None:
    """Restore image files: GeoTIFF, PNG (8 or 16 bits) and JPEG of any size. No catalog and no labels are needed.

    Writes NAME.restored.tif or NAME.restored.png, and NAME.restored.json with all parameters and checksums. Pixels
    outside the mask stay as they are, bit for bit; that is why the result of a JPEG is a PNG. It samples as
    suits the model where you name nothing.

    Example:

        unveil predict scene.tif --mask clouds.tif --weights unveil-de-small.safetensors --out restored
    """
    from de_model import checkpoint
    from de_model.inference.sampling import sampling_for
    from flows.models.predict import Request
    from flows.models.predict import predict as run

    path, settings = weights or checkpoint.shipped_weights(), o.settings(**given)
    sampling = settings.sampling(sampling_for(checkpoint.read_card(path)))
    request = Request(tuple(inputs), path, out, sampling, mask, scale, settings.device, settings.gaps, another_day)
    records: list[dict[str, Any]] = []
    with progress_bar():
        for record in run(request):
            records.append(record)
            if not as_json:
                output.print(_line(record, out), markup=False)
    if as_json:
        print_json(records)


def _line(record: dict[str, Any], out: Path) -> str:
    figures, own = record["figures"], record["model"]["gsd_m"]
    taken = "" if record["input"]["gsd_m"] else f" It does not say how large its pixels are; {own:g} m were taken."
    return (
        f"{out / record['output']['file']}: {figures['restored_pixels']} pixels restored in {figures['tiles']} tiles."
        f"{taken}"
    )
