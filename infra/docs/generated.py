"""Reference pages, as Markdown, from the code they describe: commands, settings, items, layers, metrics."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from pydantic.fields import FieldInfo

from flows.cli.setting_options import Taken, taken_by, with_options


def commands() -> str:
    """Return a section for every command of `unveil`: usage, help, and a table of its options."""
    from flows.cli import app

    root = typer.main.get_command(app)
    parts = ["# Commands", "Made from the program. `unveil COMMAND --help` shows the same.", app.info.epilog or ""]
    parts += [part for name, command in _walk(root, "unveil") for part in _command(name, command)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _walk(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield every command of a group that does something, with its full name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _walk(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


#: What a command takes of the settings -> in words.
_TAKES = {
    Taken.RUN: "[a run](settings.md)",
    Taken.MOSAIC: "[a mosaic](settings.md#mosaic)",
    Taken.LOCAL: "[a run](settings.md) that says where and on what it runs",
    Taken.RETRAIN: "[a retraining](settings.md#retraining)",
}


def _command(name: str, plain: Any) -> Iterator[str]:
    groups = [part for part in taken_by(plain.name) if part in _TAKES]
    command = plain if groups else with_options(plain.name, plain)
    context = command.context_class(command, info_name=name)
    yield f"## {name}"
    yield _plain_help(command.help or "")
    yield f"```text\n{name} {' '.join(command.collect_usage_pieces(context))}\n```"
    if groups:
        taken = " and of ".join(_TAKES[each] for each in groups)
        yield f"Takes every setting of {taken} as an option, too: `max_cloud` is `--max-cloud`."
    rows = [_option(option, context) for option in command.params if option.name != "help"]
    if rows:
        yield _table(("option", "meaning", "default"), rows)


def _plain_help(text: str) -> str:
    """Return the help of a command; indented examples become blocks of code."""
    lines = inspect.cleandoc(text).replace("\b", "").splitlines()
    return "\n".join(lines)


def _option(option: Any, context: Any) -> tuple[str, str, str]:
    named = option.param_type_name == "option"
    names = " / ".join((*option.opts, *option.secondary_opts)) if named else option.name.upper()
    kind = f" {_kind(option, context)}" if named and not option.is_flag else ""
    default = option.get_default(context, call=False)
    shown = "" if default in (None, (), [], False, "") or callable(default) else f"`{default}`"
    return f"`{names}{kind}`", str(getattr(option, "help", "") or ""), shown


def _kind(option: Any, context: Any) -> str:
    return str(option.metavar or option.display_type(context)).upper()


_SETTINGS = """\
Made from the program. A setting is a key of the YAML file given with `--config`, an environment variable (`UNVEIL_` and
its name in capitals), or an option of a command. The option wins over the variable, the variable over the file."""


def settings() -> str:
    """Return one table for every subject of the settings of a run, one of mosaics, and one of retraining."""
    from flows.models.retrain_settings import RetrainSettings
    from flows.settings.mosaic_options import MosaicOptions
    from flows.settings.run_settings import groups

    parts, seen = ["# Settings", _SETTINGS], set[str]()
    for title, fields in groups():
        parts += [f"## {title}", _table(("setting", "meaning", "default"), map(_setting, fields.items()))]
        seen |= set(fields)
    extra = {name: field for name, field in RetrainSettings.model_fields.items() if name not in seen}
    parts += [
        "## Mosaic",
        "Only of `unveil mosaic` and the flow `mosaics`.",
        _table(("setting", "meaning", "default"), map(_setting, MosaicOptions.model_fields.items())),
        "## Retraining",
        "Only of `retrain.yaml`.",
        _table(("setting", "meaning", "default"), map(_setting, extra.items())),
    ]
    return "\n\n".join(parts) + "\n"


def _setting(named: tuple[str, FieldInfo]) -> tuple[str, str, str]:
    name, field = named
    limits = ", ".join(
        f"{sign} {getattr(limit, attribute)}"
        for limit in field.metadata
        for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if hasattr(limit, attribute)
    )
    text = f"{field.description or ''}{f' ({limits})' if limits else ''}"
    return f"`{name}`", text, _default(field)


def _default(field: FieldInfo) -> str:
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    if value in (None, (), "", []):
        return ""
    return f"`{','.join(map(str, value)) if isinstance(value, tuple) else value}`"


_ITEMS = """\
Made from the program. Every product is one STAC 1.1 item beside its files, checked against the official schemas of STAC
and of every extension it declares before anybody sees it. The schemas come with the package, so nothing is fetched. An
item without a field in **bold** is refused.

The collection carries `item_assets` with bands, `renders`, `sci:publications`, summaries, providers and licence, and
declares only the extensions of which it has a field. A run that makes something publishes the model it uses, once per
catalog: the id of its item is the model's name and the first twelve digits of the weights' SHA-256."""
_KINDS = {
    "product": "A product: one date of one cell",
    "mosaic": "A mosaic: one period of one cell",
    "region": "A region: all cells of a mosaic",
    "model": "A model",
}


def items() -> str:
    """Return one table for every kind of item: where a field stands, and its meaning."""
    from stac.product.fields import FIELDS, ItemKind

    parts = ["# Item fields", _ITEMS]
    for kind in ItemKind:
        rows = [
            (
                ", ".join(f"**`{n}`**" if kind in field.required_of else f"`{n}`" for n in field.names),
                field.place,
                field.meaning,
            )
            for field in FIELDS
            if kind in field.kinds
        ]
        parts += [f"## {_KINDS[kind]}", _table(("field", "in", "meaning"), rows)]
    return "\n\n".join(parts) + "\n"


def layers() -> str:
    """Return the layers of a product and the classes of its provenance."""
    from stac.product.assets import _ROLES, _TITLES
    from stac.product.layers import Provenance
    from stac.product.writer import DTYPES

    files = [
        (f"`{layer}`", layer.file_name, str(DTYPES[layer]), description, ", ".join(_ROLES.get(layer, [str(layer)])))
        for layer, (_, description) in _TITLES.items()
    ]
    classes = [
        (str(int(p)), p.label, p.description, f'<span style="color:#{p.color}">■</span> `#{p.color}`')
        for p in Provenance
    ]
    return (
        "\n\n".join(
            (
                "# Product layers",
                "Made from the program. [The product and its provenance](../product.md) says how to read them.",
                _table(("asset", "file", "type", "content", "roles"), files),
                "## Provenance classes",
                _table(("value", "class", "meaning", "colour"), classes),
            )
        )
        + "\n"
    )


def metrics() -> str:
    """Return the Prometheus metrics: every family that the collector names, with its help text."""
    from flows.ops import exposition

    rows = [(f"`{name}_total`", text, "counter") for name, text in exposition._COUNTERS.values()]
    rows += [(f"`{name}`", text, "gauge") for name, text in _gauges(Path(exposition.__file__).read_text("utf-8"))]
    return (
        "\n\n".join(
            (
                "# Prometheus metrics",
                "Made from the program. [Metrics and cost](../metrics.md) says how they are served and scraped.",
                _table(("metric", "meaning", "type"), rows),
            )
        )
        + "\n"
    )


def _gauges(source: str) -> Iterator[tuple[str, str]]:
    """Yield name and help text of every gauge that a source file constructs."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "GaugeMetricFamily":
            name, text = (ast.literal_eval(argument) for argument in node.args[:2])
            labels = next((ast.literal_eval(k.value) for k in node.keywords if k.arg == "labels"), [])
            yield name + (f"{{{','.join(labels)}}}" if labels else ""), text


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [
        f"| {' | '.join(str(cell).replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in row)} |" for row in rows
    ]
    return "\n".join(lines)


#: Page of the site -> what makes it.
PAGES: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands,
    "reference/settings.md": settings,
    "reference/items.md": items,
    "reference/layers.md": layers,
    "reference/metrics.md": metrics,
}
