"""Roots without a container engine: Debian by debootstrap, a layer for each step of a Dockerfile, and programs in them.

Every mount is made in a mount namespace of the program that needs it, so that it ends with the program. Root is needed,
as are debootstrap, unshare, ip and setpriv.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.rehearsal.dockerfile import Ignore, Stage, Step, expand, pairs

#: What python:3.11-slim-bookworm has, as far as Debian's packages give it; its interpreter is in /usr/local.
_PYTHON_IMAGE = Step(
    "RUN",
    "apt-get update && apt-get install --yes --no-install-recommends python3.11 python3.11-venv netbase tzdata"
    " && rm -rf /var/lib/apt/lists/* && for name in python python3 python3.11;"
    " do ln -s /usr/bin/python3.11 /usr/local/bin/$name; done",
)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
#: Files of this machine that say how registries are reached; seen while building, never part of a layer.
_REACH = ("/etc/ssl/certs", "/etc/pip.conf", "/etc/xdg/pip")
_REACH_PREFIXES = ("PIP_", "NODE_EXTRA_CA", "SSL_CERT", "http_proxy", "https_proxy", "npm_config_")


@dataclass(frozen=True, slots=True)
class Image:
    """Layers, lowest first, and how a program starts in them."""

    layers: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Builder:
    """Builds the image of a Dockerfile; `state` keeps its layers, and what RUN's cache mounts hold."""

    state: Path
    context: Path
    log: Path

    def build(self, stages: Sequence[Stage]) -> Image:
        """Carry out all steps; a step that was carried out on the same files before is not repeated.

        Layers that no stage has are removed.
        """
        done: dict[str, Image] = {}
        for stage in stages:
            image = done.get(stage.base) or self._python()
            for step in stage.steps:
                image = self._step(image, step, done)
            done[stage.name] = image
        used = {layer for each in done.values() for layer in each.layers}
        for layer in (self.state / "layers").iterdir():
            if layer.name not in used:
                shutil.rmtree(layer)
        return image

    def _python(self) -> Image:
        """Return what stands for the Python image."""
        root = self.state / "layers" / "debian"
        if not root.exists():
            part = root.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            part.parent.mkdir(parents=True, exist_ok=True)
            self._logged(["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", str(part)])
            part.rename(root)
        return self._run(Image(("debian",), {"PATH": PATH}), _PYTHON_IMAGE)

    def _step(self, image: Image, step: Step, done: Mapping[str, Image]) -> Image:
        known = dict(image.environment)
        match step.instruction:
            case "ENV":
                return replace(image, environment=known | pairs(step.text, known))
            case "ARG":
                name, _, default = step.text.partition("=")
                # Seen by RUN, and not kept in the image; a name of its own keeps it apart.
                return replace(image, environment=known | {f"ARG {name}": default.strip('"')})
            case "WORKDIR":
                folder = expand(step.text, known)
                return self._layer(replace(image, folder=folder), step, f"mkdir -p $ROOT{shlex.quote(folder)}")
            case "USER":
                return replace(image, user=step.text)
            case "CMD":
                return replace(image, command=tuple(json.loads(step.text)))
            case "COPY":
                return self._copy(image, step, done)
            case "RUN":
                return self._run(image, step)
        raise ValueError(f"{step.instruction} is not carried out here")

    def _copy(self, image: Image, step: Step, done: Mapping[str, Image]) -> Image:
        options, rest = step.options()
        *sources, target = rest.split()
        place = f"$ROOT{Path(image.folder, target)}"
        if "from" in options:
            other = done[options["from"]]
            script = f'mkdir -p "{place}" && cp -a "$OTHER{sources[0]}/." "{place}/"'
            return self._layer(image, step, script, other.layers, key=" ".join(other.layers))
        ignore = Ignore.read(self.context / ".dockerignore")
        wanted = [path for path in ignore.files(self.context) if _below(path, sources)]
        if not wanted:
            raise ValueError(f"COPY {step.text}: nothing of it is in the context")
        digest = hashlib.sha256()
        for path in wanted:
            digest.update(path.encode() + b"\0" + (self.context / path).read_bytes() + b"\0")
        listing = self.state / f"copied-{os.getpid()}"
        flat = {path: path if sources == ["."] else path.rsplit("/", 1)[-1] for path in wanted}
        lines = [f'install -D -m 644 "{self.context / path}" "{place}/{to}"' for path, to in flat.items()]
        listing.write_text("set -e\n" + "\n".join(lines), "utf-8")
        try:
            return self._layer(image, step, f'ROOT="$ROOT" sh "{listing}"', key=digest.hexdigest())
        finally:
            listing.unlink()

    def _run(self, image: Image, step: Step) -> Image:
        options, command = step.options()
        environment = {name.removeprefix("ARG "): value for name, value in image.environment.items()}
        reach = {name: value for name, value in os.environ.items() if name.startswith(_REACH_PREFIXES)}
        binds = reach_of_pip()
        lines = ["cp /etc/resolv.conf $ROOT/etc/resolv.conf", *(bind(path, path, "ro") for path in binds)]
        for mount in [options["mount"]] if "mount" in options else []:
            target = dict(part.split("=") for part in mount.split(","))["target"]
            cache = self.state / "cache" / hashlib.sha256(target.encode()).hexdigest()[:8]
            cache.mkdir(parents=True, exist_ok=True)
            lines.append(bind(str(cache), target, "rw"))
        uid, gid = image.user.split(":")
        words = ["chroot", "$ROOT", "setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "env", "-i"]
        words += [shlex.quote(f"{name}={value}") for name, value in (reach | environment).items()]
        inner = f"cd {shlex.quote(image.folder)} && {command}"
        lines.append(" ".join([*words, "sh", "-c", shlex.quote(inner)]))
        # No trace of the mounts: empty folders and files that they were put on.
        lines.append("umount -R $ROOT/proc $ROOT/dev " + " ".join(f"$ROOT{path}" for path in binds))
        lines.append("rm -f $ROOT/etc/resolv.conf $ROOT/etc/pip.conf; cd $ROOT")
        lines += [f"rmdir -p --ignore-fail-on-non-empty .{path} 2>/dev/null || true" for path in binds]
        return self._layer(image, step, "\n".join(lines), key=json.dumps(environment, sort_keys=True) + image.user)

    def _layer(self, image: Image, step: Step, script: str, other: Sequence[str] = (), key: str = "") -> Image:
        """Return the image with the layer that a script makes, or with the one that it made before."""
        said = "\0".join([*image.layers, step.instruction, step.text, image.folder, key])
        name = hashlib.sha256(said.encode()).hexdigest()[:16]
        upper = self.state / "layers" / name
        if not upper.exists():
            part, work = upper.with_suffix(".part"), upper.with_suffix(".work")
            for folder in (part, work):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
            lines = [mounted(self.state, image.layers, f"upperdir={part},workdir={work}"), *devices()]
            if other:
                lines.append(f"OTHER=$(mktemp -d)\n{overlay(other, '', '$OTHER')}")
            self._logged(namespace("\n".join([*lines, script])))
            shutil.rmtree(work, ignore_errors=True)
            part.rename(upper)
        return replace(image, layers=(*image.layers, name))

    def _logged(self, command: Sequence[str]) -> None:
        with self.log.open("ab") as log:
            log.write(f"\n$ {' '.join(command)[:300]}\n".encode())
            log.flush()
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=3000, check=False)
        if done.returncode:
            tail = self.log.read_text("utf-8", "replace")[-3000:]
            raise RuntimeError(f"a step of the image failed, see {self.log}:\n{tail}")


def reach_of_pip() -> list[str]:
    """Return the files and folders of this machine by which its pip reaches packages."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    named = [path for path in re.findall(r"(?:^|['\\s]|file://)(/[\w./-]+)", said) if Path(path).exists()]
    return [path for path in (*_REACH, *dict.fromkeys(named)) if Path(path).exists() and not _inside(path)]


def _inside(path: str) -> bool:
    return any(path.startswith(f"{folder}/") for folder in _REACH)


def namespace(script: str) -> list[str]:
    """Return the command that runs a script in a mount namespace of its own."""
    return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script]


def overlay(layers: Sequence[str], writable: str, place: str) -> str:
    """Return the line that mounts layers; needs their folder as working directory."""
    # Of two layers at least: overlayfs takes no single one without a writable one.
    lower = ":".join(reversed(layers))
    return f"mount -t overlay overlay -o lowerdir={lower}{',' + writable if writable else ''} {place}"


def mounted(state: Path, layers: Sequence[str], writable: str) -> str:
    """Return the lines that mount a root at `$ROOT`, a folder that is seen in this namespace alone."""
    return "\n".join([
        "ROOT=/run/unveil-root; mkdir -p $ROOT; mount -t tmpfs tmpfs $ROOT; mkdir $ROOT/root; ROOT=$ROOT/root",
        f"cd {shlex.quote(str(state / 'layers'))}",
        overlay(layers, writable, "$ROOT"),
    ])  # fmt: skip


def devices() -> list[str]:
    """Return the lines that give a root `/proc` and the few devices of a container."""
    return [
        "mkdir -p $ROOT/proc $ROOT/dev && mount -t proc proc $ROOT/proc && mount -t tmpfs -o mode=755 tmpfs $ROOT/dev",
        "mkdir -m 1777 $ROOT/dev/shm && ln -s /proc/self/fd $ROOT/dev/fd",
        *(f"touch $ROOT/dev/{name} && mount --bind /dev/{name} $ROOT/dev/{name}" for name in _DEVICES),
        "mount -t tmpfs -o size=64m,mode=1777,nosuid,nodev,noexec tmpfs $ROOT/dev/shm",
    ]


def bind(source: str, target: str, how: str) -> str:
    """Return the line that shows a file or folder of this machine at a path of the root, `ro` or `rw`."""
    place = f"$ROOT{target}"
    make = f'mkdir -p "{place}"' if Path(source).is_dir() else f'mkdir -p "$(dirname "{place}")" && touch "{place}"'
    only = f' && mount -o remount,bind,ro "{place}"' if how == "ro" else ""
    return f'{make} && mount --bind {shlex.quote(source)} "{place}"{only}'


def _below(path: str, sources: Sequence[str]) -> bool:
    return any(source == "." or path == source or path.startswith(f"{source.rstrip('/')}/") for source in sources)
