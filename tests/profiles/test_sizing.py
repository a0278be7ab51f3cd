"""Budgets from what a node has and what there is to cache."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from holdshort.profiles.access import GIB, MIB
from holdshort.profiles.sizing import Node, fit
from holdshort.storage.node import this_node


@given(memory=st.integers(MIB, 10**13), used=st.integers(0, 10**13))
def test_the_budget_stays_within_what_there_is(memory: int, used: int) -> None:
    (budget,) = fit(Node(memory, used, "this machine"))
    assert budget.name == "memory_bytes"
    assert 64 * MIB <= budget.value <= max(64 * MIB, memory // 4 + 1)
    assert budget.value <= 8 * GIB
    assert "this machine leaves" in budget.reason


def _proc(tmp_path: Path, cgroup: str) -> Path:
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:       67108864 kB\nMemFree:        1024 kB\nMemAvailable:   50331648 kB\n")
    (proc / "self" / "cgroup").write_text(cgroup)
    return proc


def test_the_limit_of_a_container_counts_and_not_the_machines_memory(tmp_path: Path) -> None:
    groups = tmp_path / "cgroup"
    (groups / "pod" / "app").mkdir(parents=True)
    (groups / "pod" / "memory.max").write_text(f"{8 * GIB}\n")
    (groups / "pod" / "memory.current").write_text(f"{3 * GIB}\n")
    (groups / "pod" / "memory.stat").write_text(f"anon 5\ninactive_file {GIB}\n")
    (groups / "pod" / "app" / "memory.max").write_text("max\n")
    found = this_node(proc=_proc(tmp_path, "0::/pod/app\n"), cgroups=groups)
    assert (found.memory_bytes, found.memory_used_bytes) == (8 * GIB, 2 * GIB)
    assert found.memory_origin == "the limit of this container"


def test_the_first_version_of_cgroups_is_read_too_and_its_no_limit_is_none(tmp_path: Path) -> None:
    groups = tmp_path / "cgroup" / "memory"
    (groups / "docker" / "abc").mkdir(parents=True)
    (groups / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (groups / "docker" / "abc" / "memory.limit_in_bytes").write_text(f"{2 * GIB}\n")
    (groups / "docker" / "abc" / "memory.usage_in_bytes").write_text(f"{GIB}\n")
    (groups / "docker" / "abc" / "memory.stat").write_text(f"total_inactive_file {GIB // 2}\n")
    proc = _proc(tmp_path, "4:memory:/docker/abc\n1:cpu:/\n0::/\n")
    found = this_node(proc=proc, cgroups=tmp_path / "cgroup")
    assert (found.memory_bytes, found.memory_used_bytes) == (2 * GIB, GIB // 2)


def test_without_cgroups_the_machine_counts(tmp_path: Path) -> None:
    found = this_node(proc=_proc(tmp_path, "0::/\n"), cgroups=tmp_path / "none")
    assert (found.memory_bytes, found.memory_used_bytes) == (64 * GIB, 16 * GIB)
    assert found.memory_origin == "this machine"
