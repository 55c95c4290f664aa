"""The command that restores single image files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import options as o
from flows.cli.console import output, print_json, progress_bar


def predict(
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
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, help="Samples per tile, averaged; the model's own number.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Denoising steps per sample; the model's own number.")
    ] = None,
    sampler: o.Sampler = None,
    tile: Annotated[int | None, typer.Option("--tile", min=32, help="Side of a tile, pixels; the model's own.")] = None,
    eta: Annotated[
        float | None, typer.Option("--eta", min=0, max=1, help="Least share of the reference; the model's own.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the noise.")] = 0,
    device: o.Device = None,
    gaps: Annotated[
        str, typer.Option("--gaps", help="validated: what was best on places the model never saw; or model.")
    ] = "validated",
    as_json: o.AsJson = False,
) -> None:
    """Restore image files: GeoTIFF, PNG (8 or 16 bits) and JPEG of any size. No catalog and no labels are needed.

    Writes NAME.restored.tif or NAME.restored.png, and NAME.restored.json with all parameters and checksums. Pixels
    outside the mask stay as they are, bit for bit; that is why the result of a JPEG is a PNG.

    Example:

        unveil predict scene.tif --mask clouds.tif --weights unveil-de-small.safetensors --out restored
    """
    from de_model import checkpoint
    from de_model.inference.sampling import sampling_for
    from de_model.sampling.kinds import sampler_kind
    from flows.models.predict import Request
    from flows.models.predict import predict as run
    from flows.settings import Device, GapFilling

    path = weights or checkpoint.shipped_weights()
    given: dict[str, Any] = {
        "seed": seed,
        "samples": samples,
        "steps": steps,
        "sampler": None if sampler is None else sampler_kind(sampler),
        "eta": eta,
        "tile": tile,
        "overlap": None if tile is None else tile // 4,
    }
    own = sampling_for(checkpoint.read_card(path))
    sampling = replace(own, **{name: value for name, value in given.items() if value is not None})
    request = Request(
        tuple(inputs),
        path,
        out,
        sampling,
        mask,
        scale,
        o.choice(Device, device or "auto", "--device"),
        o.choice(GapFilling, gaps, "--gaps"),
    )
    records: list[dict[str, Any]] = []
    with progress_bar():
        for record in run(request):
            records.append(record)
            if not as_json:
                output.print(_line(record, out), markup=False)
    if as_json:
        print_json(records)


def _line(record: dict[str, Any], out: Path) -> str:
    figures = record["figures"]
    return (
        f"{out / record['output']['file']}: {figures['restored_pixels']} pixels restored in {figures['tiles']} tiles."
    )
