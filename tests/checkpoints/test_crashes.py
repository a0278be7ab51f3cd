"""Whatever happens to who saves, and whenever: what is visible is whole, and restore finds the last commit.

HOLDSHORT_TEST_CRASHES says how many rounds; by default a few.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import get_args

from support.crashing import Crashes, Kind
from support.faulty_proxy import FaultyProxy
from support.servers import SeaweedServer

_ROUNDS = int(os.environ.get("HOLDSHORT_TEST_CRASHES", "24"))
_PER_RUN = 25


def _report(crashes: list[Crashes], what: str) -> None:
    total = sum((each.seen for each in crashes), start=type(crashes[0].seen)())
    sys.stdout.write(f"\n{what}: {dict(sorted(total.items()))}\n")


def test_crashes_on_a_local_store_leave_whole_steps_or_none(tmp_path: Path) -> None:
    kinds = [kind for kind in get_args(Kind) if kind != "trouble"]
    runs: list[Crashes] = []
    for number in range(_ROUNDS * 3 // 4):
        if number % _PER_RUN == 0:
            runs.append(Crashes(str(tmp_path / f"run-{number}"), {}, seed=number, typical_s=0.03))
        # Those that take long are less frequent.
        kind = "kill a rank" if number % 10 == 3 else kinds[number % 3]
        runs[-1].round(kind)
    for run in runs:
        run.tidy()
    _report(runs, "local")
    assert sum(run.seen["steps committed"] for run in runs) > 0


def test_crashes_and_trouble_on_s3_leave_whole_steps_or_none(s3_server: SeaweedServer, s3_url: str) -> None:
    runs: list[Crashes] = []
    with FaultyProxy(s3_server.endpoint).serving() as proxy:
        options = {**s3_server.options, "endpoint_url": proxy.endpoint}
        for number in range(max(1, _ROUNDS // 4)):
            if number % _PER_RUN == 0:
                runs.append(Crashes(f"checkpoint::{s3_url}/run-{number}", options, seed=number, typical_s=0.4))
            kind: Kind = ("trouble", "kill", "trouble", "raise")[number % 4]
            share = 0.15 if kind == "trouble" else 0.0
            proxy.trouble = share
            # What is looked at afterwards is asked for without trouble.
            runs[-1].round(kind, after=lambda: setattr(proxy, "trouble", 0.0))
        for run in runs:
            run.tidy()
        runs[0].seen["requests that failed"] += proxy.failed
        _report(runs, "s3")
        assert _ROUNDS < 8 or proxy.failed > 0
