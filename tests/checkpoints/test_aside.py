"""The folder that a restore fills: gone with whoever filled it, however that ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from holdshort.storage import checkpoints
from holdshort.storage.checkpoints.aside import beside

RESTORED_UNTIL_KILLED = """
import os, signal, sys
from holdshort.storage import checkpoints

def progress(done, total):
    if done:
        os.kill(os.getpid(), signal.SIGKILL)

checkpoints.restore(sys.argv[1], sys.argv[2], progress=progress)
"""


def test_what_a_killed_restore_left_goes_with_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/weights.bin").write_bytes(os.urandom(100_000))
    checkpoints.save(tmp_path / "source", tmp_path / "run", 1)
    out = tmp_path / "restored" / "out"
    for _ in range(2):
        killed = subprocess.run(
            [sys.executable, "-c", RESTORED_UNTIL_KILLED, str(tmp_path / "run"), str(out)], timeout=60, check=False
        )
        assert killed.returncode == -signal.SIGKILL
        (left,) = out.parent.iterdir()
        assert left.name.startswith(".out.restoring-"), "one at most"
    others = [out.parent / ".another.restoring-0123abcd", out.parent / ".out.restoring-by-hand"]
    for other in others:
        other.mkdir()
    checkpoints.restore(tmp_path / "run", out)
    assert sorted(out.parent.iterdir()) == sorted([*others, out])
    assert (out / "weights.bin").read_bytes() == (tmp_path / "source/weights.bin").read_bytes()


def test_what_somebody_is_filling_stays(tmp_path: Path) -> None:
    with beside(tmp_path / "out") as one:
        (one / "a").write_bytes(b"a")
        with beside(tmp_path / "out") as other:
            assert one != other
            assert (one / "a").exists()
        assert not other.exists()
        assert (one / "a").exists()
    assert list(tmp_path.iterdir()) == []
