"""A process that pulls a model, and may kill itself in the middle.

    python -m support.puller FOLDER INDEX_URL MODEL_AS_JSON [KILL_AT]

KILL_AT is "unpacking": once half of the weights are taken out.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from holdshort.storage.errors import HoldshortError
from holdshort.workers.models.catalogue import Model
from holdshort.workers.models.pull import Watcher, pull
from holdshort.workers.models.sources import Network, Source


class _Killer(Watcher):
    def unpacked(self, done_bytes: int, total_bytes: int) -> None:
        if done_bytes >= total_bytes / 2:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: str, index_url: str, model: str, kill_at: str = "") -> None:
    network = Network((Source(index_url, "the test"),))
    watcher = _Killer() if kill_at == "unpacking" else None
    try:
        pulled = pull(Model(**json.loads(model)), Path(folder), network=lambda: network, watcher=watcher)
    except HoldshortError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    sys.stdout.write(json.dumps({"already_there": pulled.already_there}))


if __name__ == "__main__":
    main(*sys.argv[1:])
