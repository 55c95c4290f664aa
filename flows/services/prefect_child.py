"""Entry point of the local Prefect server, which ends when its parent does.

Run as `python -m flows.services.prefect_child --port PORT` with a pipe as standard input, whose other end the parent
holds. When the parent ends in any way, SIGKILL included, the pipe closes and the server stops by itself: no
orphan is left.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading

#: Objects between two runs of the garbage collector; the default of 700 costs a tenth of the server's start.
_GC_THRESHOLD = 50_000


def stop_when_parent_ends() -> None:
    """Watch standard input in the background; ask this process to terminate when it closes."""
    threading.Thread(target=_watch, name="parent-watch", daemon=True).start()


def _watch() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Serve with the arguments of this process."""
    stop_when_parent_ends()
    gc.set_threshold(_GC_THRESHOLD)
    from flows.services import prefect_app

    prefect_app.main(sys.argv[1:])


if __name__ == "__main__":
    main()
