"""Keeper of one child: runs a command, and ends it when the process that asked for it is gone.

Run as `python -m flows.services.keeper MARK COMMAND...` with a pipe as standard input, whose other end the asking
process holds. When that one ends in any way, SIGKILL included, the pipe closes and everything that was started under
the mark is ended: flow runs, too, which live in sessions of their own. They are known by their environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

import psutil

#: In the environment of everything that is started under a mark: the mark.
VARIABLE = "UNVEIL_KEPT"
#: From a polite signal to SIGKILL, seconds.
GRACE_S = 10.0


def marked(mark: str) -> list[psutil.Process]:
    """Return the processes that were started under a mark, whatever their parents are by now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(VARIABLE) == mark:
                found.append(process)
    return found


def sweep(mark: str, grace_s: float = GRACE_S) -> None:
    """End all that was started under a mark: a polite signal, a bounded wait, SIGKILL."""
    present = marked(mark)
    for process in present:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(present, timeout=grace_s)
    # Also what they started in the meantime.
    for process in marked(mark):
        with contextlib.suppress(psutil.Error):
            process.kill()


def main() -> None:
    """Run a command to its end, or to the end of the process that asked for it; exit as the command did."""
    mark, command = sys.argv[1], sys.argv[2:]
    for number in (signal.SIGTERM, signal.SIGINT):
        # The signal is for the child, which is in the same process group; a handler is not inherited by it.
        signal.signal(number, lambda *_: None)
    # A socket that was handed to this process goes on to the child; all other files close by themselves.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=os.environ | {VARIABLE: mark}, close_fds=False)
    threading.Thread(target=_watch, args=(mark,), name="parent-watch", daemon=True).start()
    status = child.wait()
    os._exit(status if status >= 0 else 128 - status)


def _watch(mark: str) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    sweep(mark)


if __name__ == "__main__":
    main()
