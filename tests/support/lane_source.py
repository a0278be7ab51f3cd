"""A process with a lane source, told by lines on its standard input what to say; it answers each with a line.

python -m support.lane_source NAME
"""

from __future__ import annotations

import os
import signal
import sys
import time

from holdshort.cli.output import start_logging
from holdshort.jobs.settings import Settings
from holdshort.workers.lane.opening import open_sources


def main() -> None:
    start_logging(verbose=False)
    sources = open_sources(Settings.load(), sys.argv[1])
    for line in iter(sys.stdin.readline, ""):
        answer = "done"
        match line.split(maxsplit=1):
            case ["hold", reason]:
                for source in sources:
                    source.hold(reason.strip())
            case ["hold-for", seconds]:
                for source in sources:
                    source.hold("for a while", for_s=float(seconds))
            case ["clear", headroom]:
                for source in sources:
                    source.clear(headroom=float(headroom))
            case ["flip", count]:
                # As fast as it goes, but not in less than a second; it ends in a hold.
                begun = time.monotonic()
                for number in range(int(count)):
                    for source in sources:
                        source.hold("live") if number % 2 else source.clear()
                    while time.monotonic() - begun < number / int(count):
                        pass
            case ["timed", count]:
                # How long the slowest and the usual call takes.
                took: list[float] = []
                for number in range(int(count)):
                    begun = time.perf_counter()
                    sources[0].hold("live") if number % 2 else sources[0].clear()
                    took.append(time.perf_counter() - begun)
                    time.sleep(0.001)
                took.sort()
                answer = f"{took[len(took) // 2]} {took[len(took) * 99 // 100]} {took[-1]}"
            case ["fork"]:
                if os.fork() == 0:
                    open_sources(Settings.load(), "child")[0].hold("from the child")
                    signal.pause()
            case ["close"]:
                for source in sources:
                    source.close()
            case ["quit"]:
                return
            case _:
                raise ValueError(line)
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
