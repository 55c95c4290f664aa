"""What the rehearsal does and demands, from the build to the last service's end."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.command import ROOT, TINY_BBOX
from tests.containers import services
from tests.prefect_service import FINAL, poll
from tests.rehearsal.dockerfile import parse
from tests.rehearsal.network import HOST, network, within
from tests.rehearsal.root import Builder, Image, mounted, namespace
from tests.rehearsal.stack import Stack, secrets_of_all
from tests.rehearsal.stand_ins import STAND_INS

#: Where a secret may lie beside the sources by mistake.
_ENV_FILES = (".env", "infra/compose/.env", "infra/compose/prod.env", "flows/.env", "infra/image/local.env")
_CANARY = "d1f4c0ffee-secret-of-a-dotenv"
_NOT_STARTED = {"deploy", "grafana"}
#: Packages of Debian that python:3.11-slim-bookworm has beside the essential ones.
_SLIM = {
    "libbz2-1.0", "libc6", "libcrypt1", "libdb5.3", "libffi8", "libgcc-s1", "liblzma5", "libncursesw6", "libreadline8",
    "libsqlite3-0", "libssl3", "libstdc++6", "libtinfo6", "libuuid1", "zlib1g",
}  # fmt: skip


@dataclass(slots=True)
class Rehearsal:
    """A rehearsal; `lines` is its log."""

    state: Path
    home: Path
    lines: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Add a line to the log and print it."""
        line = f"{time.monotonic() - self.began:6.0f} s  {text}"
        self.lines.append(line)
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def run(self) -> None:
        """Build, start, make a mosaic, look at it from outside, stop.

        Raises:
            AssertionError: something is not as it has to be.
        """
        image = self.build()
        self.no_secret_in(image)
        self.libraries_of(image)
        names = [name for name, service in services().items() if "network_mode" not in service]
        with network(names) as net:
            stack = Stack(self.state, self.home, image, net, secrets_of_all(), STAND_INS, said=self.say)
            try:
                self.story(stack)
            finally:
                stack.kill()
        self.no_password_in(stack)

    def build(self) -> Image:
        """Carry out the Dockerfile on a copy of the working tree with secrets in it."""
        context = self.home / "context"
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for path in listed.stdout.splitlines():
            if (ROOT / path).is_file():
                (context / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / path, context / path)
        for path in _ENV_FILES:
            (context / path).write_text(f"PASSWORD={_CANARY}\n", "utf-8")
        stages = parse((context / "infra/image/Dockerfile").read_text("utf-8"))
        log = self.home / "build.log"
        image = Builder(self.state, context, log).build(stages)
        shutil.rmtree(context)
        steps = sum(len(stage.steps) for stage in stages)
        self.say(f"image: {len(stages)} stages, {steps} steps, {len(image.layers)} layers")
        return image

    def no_secret_in(self, image: Image) -> None:
        """Look for the secrets in every layer, and for any environment file."""
        layers = [self.state / "layers" / layer for layer in image.layers[1:]]
        found = subprocess.run(["grep", "-rlF", _CANARY, *layers], capture_output=True, text=True, check=False).stdout
        assert not found, f"a secret is in the image: {found}"
        files = [path for layer in layers for path in (layer / "opt/unveil").rglob("*.env") if path.is_file()]
        assert not files and not [p for layer in layers for p in (layer / "opt/unveil").rglob(".env")], files
        self.say(f"image: none of {len(_ENV_FILES)} environment files of the context is in it, nor a byte of them")

    def libraries_of(self, image: Image) -> None:
        """Every library that a wheel takes from Debian is in the slim image or installed by the Dockerfile."""
        script = (
            "export LC_ALL=C; find /opt/venv -name '*.so*' -type f -exec ldd {} + 2>/dev/null"
            " | sed -nE 's/^\\t.* => (\\/(usr\\/)?lib\\/[^ ]*).*/\\1/p' | sort -u | xargs readlink -f"
            # Debian's list has paths from before /lib became /usr/lib.
            " | xargs -n 1 basename | sort -u | sed 's,^,*/,' | xargs dpkg -S | cut -d: -f1 | sort -u"
        )
        lines = [mounted(self.state, image.layers, ""), f"exec chroot $ROOT sh -c {shlex.quote(script)}"]
        done = subprocess.run(namespace("\n".join(lines)), capture_output=True, text=True, timeout=300, check=False)
        needed = set(done.stdout.split())
        final = parse((ROOT / "infra/image/Dockerfile").read_text("utf-8"))[-1]
        installed = {word for step in final.steps if "apt-get install" in step.text for word in step.text.split()}
        assert "libexpat1" in needed, f"rasterio needs it: {done.stdout}{done.stderr}"
        missing = needed - _SLIM - installed
        assert not missing, f"no RUN of the last stage installs {sorted(missing)}"
        self.say(f"image: libraries of Debian that wheels need are installed: {', '.join(sorted(needed - _SLIM))}")

    def story(self, stack: Stack) -> None:
        """Start everything, publish one mosaic through the worker, look at it through every door, stop."""
        for name in services():
            if name not in _NOT_STARTED and name not in stack.running:
                stack.up(name)
        self.confined(stack)
        self.logins(stack)
        stack.running["deploy"] = stack.start("deploy")
        assert stack.running.pop("deploy").wait(600) == 0, stack.tail("deploy")
        self.say("deploy: deployments and automations are on the server")
        self.mosaic(stack)
        ended = stack.stop()
        bad = {name: status for name, status in ended.items() if status not in (0, -15, 143) and name not in STAND_INS}
        assert not bad, f"ended with {bad}"
        self.say(f"stopped: {', '.join(ended)}")

    def confined(self, stack: Stack) -> None:
        """The root is read-only, and a service has no rights."""
        ours = [name for name in stack.running if name not in STAND_INS and "healthcheck" in services()[name]]
        probe = (
            "touch /opt/unveil/x /usr/x 2>&1 | grep -c 'Read-only file system'; id -u;"
            " grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status"
        )
        for name in ours:
            words = stack.inside(name, ["sh", "-c", probe]).stdout.split()
            assert words == ["2", "10001", "CapEff:", "0000000000000000", "NoNewPrivs:", "1"], (name, words)
        outside = "import socket; socket.create_connection(('192.0.2.1', 443), 3)"
        assert "unreachable" in stack.inside("worker", ["python", "-c", outside]).stderr
        self.say(f"confined: {', '.join(ours)}: user 10001, no capability, read-only root, no way out")

    def logins(self, stack: Stack) -> None:
        """Prefect and MLflow answer to those who know the password only; Prefect's UI is served."""
        assert self.status(stack, "prefect:4200/api/flows/count", "POST") == 401
        assert self.status(stack, "prefect:4200/api/flows/count", "POST", "UNVEIL_PREFECT_LOGIN") == 200
        page = self.text(stack, "prefect:4200/")
        assert "<!doctype html>" in page.lower() and "script" in page, page[:300]
        where = "mlflow:5000/api/2.0/mlflow/registered-models/search"
        assert self.status(stack, where) == 401
        assert self.status(stack, where, "GET", "unveil:UNVEIL_MLFLOW_LOGIN") == 200
        resolve = "import socket; socket.getaddrinfo('s3', 8333)"
        assert stack.inside("worker", ["python", "-c", resolve]).returncode != 0, "it shares no network with s3"
        self.say("logins: Prefect and MLflow answer 401 without the password, 200 with it; Prefect's UI 200")

    def mosaic(self, stack: Stack) -> None:
        """Run the deployment through the worker, and find its item in catalog, STAC API, tiles and metrics."""
        settings = {"bbox": TINY_BBOX, "datetime": "2023-08-18", "samples": 1, "steps": 1, "tile": 32, "overlap": 8}
        run = [
            "prefect",
            "deployment",
            "run",
            "clear-scenes/clear-scenes",
            "--param",
            f"settings={json.dumps(settings)}",
        ]
        done = stack.inside("worker", run, 120)
        match = re.search(r"UUID: ([0-9a-f-]{36})", done.stdout)
        assert match, done.stdout + done.stderr
        login = "UNVEIL_PREFECT_LOGIN"

        def ended() -> str | None:
            kind: str = self.json(stack, f"prefect:4200/api/flow_runs/{match[1]}", login)["state"]["type"]
            return kind if kind in FINAL else None

        state = poll(ended, "the run did not end", 900)
        assert state == "COMPLETED", (state, stack.tail("worker"))
        self.say("mosaic: the worker's flow run is COMPLETED")
        (item,) = self.json(stack, "search:8080/search")["features"]
        assert item["id"] and item["assets"]["data"]["href"].startswith("http://127.0.0.1:8080/catalog/")
        self.say(f"mosaic: the STAC API finds {item['id']}, collection {item['collection']}")
        at = item["assets"]["data"]["href"].replace("127.0.0.1:8080", "catalog:8080").removeprefix("http://")
        assert self.status(stack, at) == 200 and self.status(stack, "catalog:8080/") == 200
        self.say("mosaic: the catalog serves its file, and STAC Browser")
        picture = f"catalog:8083/collections/{item['collection']}/items/{item['id']}/preview.png?assets=visual"
        assert self.status(stack, picture) == 200
        self.say("mosaic: tiles makes a picture of it")
        metrics = self.text(stack, "metrics:9464/metrics")
        assert "unveil_units_restored_total 1.0" in metrics and 'unveil_units{state="succeeded"} 1.0' in metrics
        self.say("mosaic: metrics counts one unit")

        def scraped() -> bool | None:
            answer = self.json(stack, "prometheus:9090/api/v1/query?query=unveil_units_restored_total")
            return True if answer["data"]["result"] else None

        poll(scraped, "Prometheus has scraped nothing", 60)
        self.say("mosaic: Prometheus has it")

    def no_password_in(self, stack: Stack) -> None:
        """Nothing that was written, logs, state and catalog included, holds a password."""
        looked = 0
        for path in self.home.rglob("*"):
            # PostgreSQL's own files hold the hashes of what it was given.
            if path.is_file() and "volumes/database" not in str(path):
                content, looked = path.read_bytes(), looked + 1
                leaked = [name for name, value in stack.variables.items() if value.encode() in content]
                assert leaked == [], (leaked, path)
        self.say(f"secrets: none of {len(stack.variables)} passwords is in {looked} files of logs, state and catalog")

    def status(self, stack: Stack, where: str, method: str = "GET", login: str = "") -> int:
        """Return the status of a request from the host."""
        return int(self._curl(stack, where, ["-o", "/dev/null", "-w", "%{http_code}", "-X", method], login))

    def text(self, stack: Stack, where: str, login: str = "") -> str:
        """Return what a request from the host is answered with."""
        return self._curl(stack, where, ["--fail"], login)

    def json(self, stack: Stack, where: str, login: str = "") -> Any:
        """Return the document that a request from the host is answered with."""
        return json.loads(self.text(stack, where, login))

    @staticmethod
    def _curl(stack: Stack, where: str, options: list[str], login: str) -> str:
        name, rest = where.split(":", 1)
        address = f"http://{stack.network.addresses[name]}:{rest}"
        user, _, variable = login.rpartition(":")
        password = stack.variables.get(variable, "")
        # MLflow answers to known names only.
        given = [
            *(["-u", f"{user}:{password}" if user else password] if login else []),
            "-H",
            f"Host: {where.split('/')[0]}",
        ]
        if "-X" in options and "POST" in options:
            given += ["-H", "Content-Type: application/json", "-d", "{}"]
        command = [*within(HOST), "curl", "-sS", "-m", "60", *options, *given, address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 0, (where, done.stderr)
        return done.stdout
