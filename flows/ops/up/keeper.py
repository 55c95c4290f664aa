"""Keeper of one child: runs a command, and ends it when the process that asked for it is gone.

Run as `python -m flows.ops.up.keeper FOLDER COMMAND...` with a pipe as standard input, whose other end the supervisor
holds. When the supervisor ends in any way, SIGKILL included, the pipe closes and everything that was started for the
folder is ended: flow runs, too, which live in sessions of their own. They are known by their environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

import psutil

#: In the environment of everything that is started for a folder: the folder.
MARK = "UNVEIL_UP"
#: From a polite signal to SIGKILL, seconds.
GRACE_S = 10.0


def marked(folder: str) -> list[psutil.Process]:
    """Return the processes that were started for a folder, whatever their parents are by now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == folder:
                found.append(process)
    return found


def sweep(folder: str, grace_s: float = GRACE_S) -> None:
    """End all that was started for a folder: a polite signal, a bounded wait, SIGKILL."""
    present = marked(folder)
    for process in present:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(present, timeout=grace_s)
    # Also what they started in the meantime.
    for process in marked(folder):
        with contextlib.suppress(psutil.Error):
            process.kill()


def main() -> None:
    """Run a command to its end, or to the end of the supervisor; exit as it did."""
    folder, command = sys.argv[1], sys.argv[2:]
    for number in (signal.SIGTERM, signal.SIGINT):
        # The signal is for the child, which is in the same process group; a handler is not inherited by it.
        signal.signal(number, lambda *_: None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=os.environ | {MARK: folder})
    threading.Thread(target=_watch, args=(folder,), name="supervisor-watch", daemon=True).start()
    status = child.wait()
    os._exit(status if status >= 0 else 128 - status)


def _watch(folder: str) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    sweep(folder)


if __name__ == "__main__":
    main()
