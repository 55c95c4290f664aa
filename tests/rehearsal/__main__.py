"""Build the image and rehearse the stack of infra/compose in it: `python -m tests.rehearsal --out docs/results`.

Needs root, debootstrap, iproute2, PostgreSQL with PostGIS, Prometheus, and the registries of Debian, PyPI and npm for
what is not in the state folder yet (default: ~/.cache/unveil/rehearsal).
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shutil
import signal
import sys
from pathlib import Path

from tests.rehearsal.checks import Rehearsal


def main() -> None:
    """Rehearse, print what happens, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the page rehearsal.md")
    parser.add_argument("--state", type=Path, default=Path.home() / ".cache" / "unveil" / "rehearsal")
    options = parser.parse_args()
    # A rehearsal that is ended ends its services, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    # Logs and volumes of the last rehearsal stay, for what went wrong.
    home = options.state.resolve() / "last"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    rehearsal = Rehearsal(options.state.resolve(), home)
    rehearsal.run()
    if options.out:
        (options.out / "rehearsal.md").write_text(page(rehearsal.lines), "utf-8")


def page(lines: list[str]) -> str:
    """Return the page of a rehearsal that went well."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = f"{os.cpu_count()} cores, {memory:.0f} GiB of memory, Linux {platform.release().split('-')[0]}"
    today = datetime.datetime.now(datetime.UTC).date()
    text = Path(__file__).with_name("page.md").read_text("utf-8")
    return text.format(today=today, machine=machine, log="\n".join(lines))


if __name__ == "__main__":
    main()
