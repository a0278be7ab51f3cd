"""Makes the bucket of the configured store if it is not there, and tries the store. Run once, before everything else.

Exits with 1 and says why if that does not succeed within the seconds given as its argument.
"""

from __future__ import annotations

import sys
import time

import fsspec

from holdshort.jobs import Settings
from holdshort.storage.errors import HoldshortError, StoreUnavailable
from holdshort.storage.opening import open_store

_PAUSE_S = 1.0


def main(patience_s: float) -> int:
    settings = Settings.load()
    end = time.monotonic() + patience_s
    while True:
        try:
            _make_bucket(settings)
            # Whoever opens a store first tries whether it keeps the promises, and says so if it does not.
            store = open_store(settings.store, storage_options=settings.store_options)
        except PermissionError as error:
            sys.stderr.write(f"{settings.store} refuses these keys: {error}\n")
            return 1
        except (OSError, StoreUnavailable) as error:
            # A store answers before it can take anything.
            if time.monotonic() >= end:
                sys.stderr.write(f"{settings.store} can't be used: {error}\n")
                return 1
            time.sleep(_PAUSE_S)
        except HoldshortError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        else:
            sys.stderr.write(f"{store.url} is ready\n")
            return 0


def _make_bucket(settings: Settings) -> None:
    protocol, _, path = settings.store.partition("://")
    bucket = path.partition("/")[0]
    files = fsspec.filesystem(protocol, skip_instance_cache=True, **settings.store_options)
    if not files.exists(bucket):
        try:
            files.mkdir(bucket)
        except FileExistsError:
            return  # another was first


if __name__ == "__main__":
    raise SystemExit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0))
