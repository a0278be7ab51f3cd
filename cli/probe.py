"""The command that watches a busy machine."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from .jobs import AsJson
from .pools import Pool

if TYPE_CHECKING:
    from ..workers.probe.measured import Sample


def probe(
    pool: Pool,
    cpu_above: Annotated[
        float | None,
        typer.Option(min=0.01, max=1.0, help="Hold from this share of the cores that others use.", show_default=False),
    ] = None,
    gpu_above: Annotated[
        float | None,
        typer.Option(min=0.01, max=1.0, help="Hold from this share of a GPU that others use.", show_default=False),
    ] = None,
    every: Annotated[float, typer.Option(min=0.02, max=60.0, help="Seconds between two samples.")] = 0.1,
    device: Annotated[
        str,
        typer.Option(
            help="Hold only this of the pool's devices, and watch only the GPU that it names.", show_default=False
        ),
    ] = "",
    once: Annotated[bool, typer.Option("--once", help="Measure once, print it, and hold nothing.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    json: AsJson = False,
) -> None:
    """Hold a pool on this host while others keep its CPUs or GPUs busy; batch workers do not count. Ctrl-C leaves.

    Without a threshold: 0.5 of the cores and 0.3 of each GPU, where that can be measured.

    Example: `holdshort probe embed --cpu-above 0.5`
    """
    from ..jobs.settings import Settings
    from ..workers.probe.probing import Probe, Thresholds, measure_once
    from .output import note, print_json, start_logging

    settings = Settings.load()
    if once:
        sample = measure_once(settings, pool)
        print_json(sample.as_dict()) if json else _show(sample)
        return
    start_logging(verbose=verbose)
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    running = Probe(settings, pool, Thresholds(cpu_above, gpu_above), every_s=every, device=device)
    watches = [watched.name for watched in running.watched]
    if json:
        print_json({"event": "started", "pool": pool, "watches": watches, "not_watched": running.not_watched})
        sys.stdout.flush()
    else:
        note(f"watching {' and '.join(watches)} for pool {pool}; Ctrl-C leaves")
        for problem in running.not_watched:
            note(f"  {problem}")
    running.run(stop)


def _show(sample: Sample) -> None:
    from ..workers.probe.measured import Unmeasured, percent
    from .output import say

    def told(share: float | Unmeasured) -> str:
        return f"not measured: {share}" if isinstance(share, Unmeasured) else percent(share)

    match sample.cpu:
        case Unmeasured() as problem:
            say(f"CPU: {told(problem)}")
        case load:
            say(f"CPU: others use {percent(load.others)} of {load.whole}, batch {percent(load.workers)}")
    match sample.gpus:
        case Unmeasured() as problem:
            say(f"GPUs: {told(problem)}")
        case gpus:
            for gpu in gpus:
                of = f"{gpu.whole} ({gpu.name})" if gpu.name else gpu.whole
                if isinstance(gpu.others, Unmeasured):
                    say(f"{of}: busy {told(gpu.busy)}; others {told(gpu.others)}")
                else:
                    say(f"{of}: others use {percent(gpu.others)}, batch {told(gpu.workers)}")
