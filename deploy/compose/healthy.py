"""What the health checks of docker-compose.yml run: exits with 0 if all is well, else with 1 and says why.

healthy.py url URL              it answers
healthy.py controller           some controller leads
healthy.py inbox FOLDER         no file has been waiting there for long
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

LONG_S = 60.0
"""A dropped file is taken within seconds; one that stays so long has nobody who takes it, or can't be taken."""


def url(address: str) -> str | None:
    """Why a GET of the address does not answer with 2xx; None if it does."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(address, timeout=4):  # noqa: S310 - the address is docker-compose.yml's own
            return None
    except (urllib.error.URLError, OSError) as error:
        return f"{address}: {error}"


def controller() -> str | None:
    """Why it looks as if no controller led; None if one does."""
    import orjson

    from holdshort.jobs import Settings
    from holdshort.jobs.ledger import layout
    from holdshort.storage.errors import HoldshortError
    from holdshort.storage.opening import open_store

    try:
        settings = Settings.load()
        store = open_store(settings.store, storage_options=settings.store_options)
        latest = max((int(name) for name in store.list(layout.leases())), default=0)
        until = float(orjson.loads(store.read(layout.lease(latest)))["until"]) if latest else 0.0
    except HoldshortError as error:
        return str(error)
    over_s = time.time() - until
    return f"the last lease ended {over_s:.0f} s ago" if over_s > 0 else None


def inbox(folder: Path) -> str | None:
    """Why the trigger of a folder seems not to work; None if it does."""
    from holdshort.jobs.triggers.identity import is_unfinished_name

    try:
        ages = {path.name: time.time() - path.lstat().st_ctime for path in folder.iterdir() if _is_plain(path)}
    except FileNotFoundError:
        return None  # one was taken meanwhile
    waiting = sorted(name for name, age_s in ages.items() if age_s > LONG_S and not is_unfinished_name(name))
    return f"waiting in {folder} for more than {LONG_S:.0f} s: {', '.join(waiting)}" if waiting else None


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def main(arguments: list[str]) -> int:
    match arguments:
        case ["url", address]:
            problem = url(address)
        case ["controller"]:
            problem = controller()
        case ["inbox", folder]:
            problem = inbox(Path(folder))
        case _:
            problem = __doc__
    if problem:
        sys.stderr.write(f"{problem}\n")
    return 1 if problem else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
