"""Storage against a store that is 40 ms and 90 MB/s per connection away: with our profiles, and beside others.

    python benchmarks/storage.py [--quick] [--rows sequential,cold] [--repeats N] [--list]

A row is one kind of work; --list names them. Each arm of it runs in processes of its own, which have imported and
connected before their time begins, and arms take turns in an order of their own in each repeat. "By hand" is what an
expert writes for this very work; the limit is a loop of 32 threads of the standard library. "Fetched" is what the store
sent ÷ what was asked for. "Of it held" is memory beyond what the process had before and what it was asked for, and "may
hold" is what the profile allows (`holdshort profile explain`).

Figures go to results/storage.json, and a run of single rows replaces only these there; with --quick to
storage_quick.json. Ctrl-C keeps what was measured. What an arm needs beyond the extra `dev` is in the extra `bench`.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from rows import (
    crashes,
    epochs,
    keeping,
    racing,
    running,
    saving,
    scattered,
    sequential,
    showing,
    small,
    weights,
    writing,
)
from rows.row import Row

ROWS: Sequence[Row] = (
    sequential.ROW, weights.COLD_ROW, weights.WARM_ROW, epochs.ROW, scattered.ROW, small.ROW, writing.ROW, saving.ROW,
    crashes.ROW, racing.ROW,
)  # fmt: skip


def main() -> None:
    """Measure what was asked for, keep it, and show it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less of everything, to see that it works")
    parser.add_argument("--rows", type=_chosen, default=ROWS, help="these only, separated by commas")
    parser.add_argument("--repeats", type=int, help="how often everything is measured")
    parser.add_argument("--list", action="store_true", help="name the rows and their arms, and measure nothing")
    parser.add_argument("--show", action="store_true", help="show what was measured before, and measure nothing")
    parser.add_argument("--page", action="store_true", help="the same as a page of the documentation, on stdout")
    given = parser.parse_args()
    chosen: Sequence[Row] = given.rows
    if given.list:
        _list()
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    file = keeping.path(quick=given.quick)
    kept = keeping.load(file)
    if given.page:
        showing.page(chosen, kept)
        return
    wanted = [] if given.show else [(row, given.repeats or row.repeats[given.quick]) for row in chosen]
    progress = running.Progress(wanted, quick=given.quick)
    for row, repeats in wanted:
        found = running.measure(row, repeats, progress, quick=given.quick)
        if found.runs or found.died:
            kept = keeping.keep(row, found, file, quick=given.quick)
        if found.is_broken_off:
            break
    for row in chosen:
        if row.name in kept:
            showing.tables(row, kept[row.name])
    showing.summary(ROWS, kept)
    showing.chart(keeping.name(quick=given.quick), ROWS, kept)
    sys.stdout.write(f"figures: {file}\n")


def _chosen(names: str) -> Sequence[Row]:
    known = {row.name: row for row in ROWS}
    wanted = names.split(",")
    if unknown := [name for name in wanted if name not in known]:
        raise argparse.ArgumentTypeError(f"there is no row {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in wanted]


def _list() -> None:
    for row in ROWS:
        sys.stdout.write(f"{row.name}: {row.title}\n")
        sys.stdout.write(f"    {', '.join(row.arms)}\n")
        for arm, package in row.left_out().items():
            sys.stdout.write(f"    {arm} needs what is not here: pip install '{package}'\n")


if __name__ == "__main__":
    main()
