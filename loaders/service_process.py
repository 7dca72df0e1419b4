"""One process of a local tf.data service: ``dispatcher FOLDER`` or ``worker``. Run by ``loaders.service``, as a script of its own.

It says where it listens on its standard output, and ends when its standard input does: with whoever started it, however that
one ended. A worker is told where the dispatcher is on the first line of its input.
"""

from __future__ import annotations

import os
import shutil
import sys

WORKER_TIMEOUT_MS, FORGET_MS, HEARTBEAT_MS = 5_000, 10_000, 500


def main(part: str, folder: str = "") -> None:
    """Serve until standard input ends. A dispatcher keeps the graphs of all passes in ``folder``, and removes it in the end."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    service = tf.data.experimental.service
    if part == "dispatcher":
        config = service.DispatcherConfig(
            work_dir=folder,  # it forgets no graph: in memory, where they would lie instead, each takes eight times as much
            worker_timeout_ms=WORKER_TIMEOUT_MS,
            job_gc_check_interval_ms=FORGET_MS,
            job_gc_timeout_ms=FORGET_MS,
        )
        server = service.DispatchServer(config)
        print(server.target, flush=True)  # noqa: T201
    else:
        address = sys.stdin.readline().strip().partition("://")[2]
        server = service.WorkerServer(service.WorkerConfig(dispatcher_address=address, heartbeat_interval_ms=HEARTBEAT_MS))
        print("ready", flush=True)  # noqa: T201
    sys.stdin.read()
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    del server


if __name__ == "__main__":
    main(*sys.argv[1:])
