"""Where data of a known size is cached: never more than there is room for, and never all or nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from holdshort.profiles import BUILT_IN, SERVING, TRAINING, Value, extension, resolve
from holdshort.profiles.access import GIB, MIB
from holdshort.profiles.sizing import DataSize, Disk, Node, fit
from holdshort.profiles.working_set import Counted, fit_data

AMOUNTS = st.integers(0, 2**46)


def _counted(size_bytes: int, objects: int = 1) -> Counted:
    return Counted("s3://bucket/data", DataSize(objects, size_bytes, True, 1000.0))


def _node(memory: int = 64 * GIB, disk: int = 400 * GIB, ram: int = 32 * GIB, in_ram: int = 0) -> Node:
    """With so much free of each."""
    return Node(memory, 0, "this machine", Disk("/cache", 2 * disk, disk),
                Disk("/dev/shm", ram + in_ram, ram, in_ram))  # fmt: skip


def _by_name(values: tuple[Value, ...]) -> dict[str, Any]:
    return {value.name: value.value for value in values}


@st.composite
def _nodes(draw: st.DrawFn) -> Node:
    def disk(folder: str) -> Disk:
        if draw(st.booleans()) and draw(st.booleans()):
            return Disk(folder, unusable="it can't be written")
        total = draw(AMOUNTS)
        free = draw(st.integers(0, total))
        return Disk(folder, total, free, draw(st.integers(0, total - free)))

    return Node(draw(st.integers(MIB, 2**40)), draw(AMOUNTS), "this machine", disk("/cache"), disk("/dev/shm"))


@given(_nodes(), st.builds(_counted, AMOUNTS, st.integers(1, 10**7)))
def test_no_more_is_kept_than_there_is_room_for_and_never_nothing_where_there_is_some(
    node: Node, counted: Counted
) -> None:
    assert node.disk is not None
    assert node.ram is not None
    assume(counted.size.bytes)
    found, fitted = _by_name(fit_data(counted, node, {})), _by_name(fit(node))
    in_ram = 0 if node.ram.unusable else node.ram.free_bytes + node.ram.cached_bytes
    if found.get("cache") == "memory":
        assert 0 < found["cache_bytes"] <= min(fitted["memory_bytes"], in_ram)
        assert counted.size.bytes <= found["cache_bytes"] or fitted["cache_bytes"] == 0, "a part only without a disk"
    elif found:
        assert found == {"cache": "disk", "cache_bytes": fitted["cache_bytes"]}
        assert fitted["cache_bytes"] > 0
    else:
        assert fitted["cache_bytes"] == 0
        assert min(in_ram - node.ram.total_bytes // 10, in_ram * 3 // 4) <= 1
    assert all(value.reason for value in fit_data(counted, node, {}))


@given(_nodes(), AMOUNTS, AMOUNTS)
def test_a_smaller_set_never_lies_further_away(node: Node, one: int, other: int) -> None:
    small, large = (
        _by_name(fit_data(_counted(n), node, {})).get("cache") for n in sorted((max(one, 1), max(other, 1)))
    )
    if large == "memory":
        assert small == "memory"


@given(_nodes(), st.builds(_counted, AMOUNTS), st.sampled_from(["none", "disk", "memory"]), AMOUNTS)
def test_what_is_said_above_is_not_decided_again(node: Node, counted: Counted, place: str, much: int) -> None:
    assert "cache" not in _by_name(fit_data(counted, node, {"cache": place}))
    assert "cache_bytes" not in _by_name(fit_data(counted, node, {"cache_bytes": much}))
    if place == "none":
        assert fit_data(counted, node, {"cache": place}) == ()


@pytest.mark.parametrize(
    ("node", "size_bytes", "place", "said"),
    [
        (_node(), 3 * GIB, "memory", "all 3 GiB under s3://bucket/data can stay"),
        (_node(), 5 * GIB, "disk", "all 5 GiB under s3://bucket/data can stay; three quarters, less what keeps"),
        (_node(), 1600 * GIB, "disk", "19 % of the 1.56 TiB under s3://bucket/data can stay, and the rest is read"),
        (_node(ram=64 * MIB), GIB, "disk", "all 1 GiB"),
        (_node(disk=0), 32 * GIB, "memory", "25 % of the 32 GiB"),
        (_node(in_ram=7 * GIB), 7 * GIB, "memory", "all 7 GiB"),
    ],
    ids=[
        "fits memory well",
        "too much for memory",
        "too much for all",
        "a small RAM disk",
        "no disk",
        "is there already",
    ],
)
def test_a_set_lies_where_it_fits_and_as_much_of_it_as_fits(node: Node, size_bytes: int, place: str, said: str) -> None:
    values = {value.name: value for value in fit_data(_counted(size_bytes), node, {})}
    assert values["cache"].value == place
    assert values["cache_bytes"].reason.startswith(said)
    assert "s3://bucket/data" in values["cache"].reason


def test_many_small_objects_count_with_what_each_takes_besides() -> None:
    assert _by_name(fit_data(_counted(3 * GIB, 10), _node(), {}))["cache"] == "memory"
    assert _by_name(fit_data(_counted(3 * GIB, 3_000_000), _node(), {}))["cache"] == "disk"


def test_a_small_set_leaves_the_budget_of_the_folder_to_the_others_in_it() -> None:
    small, large = (_by_name(fit_data(_counted(n), _node(), {})) for n in (5 * GIB, 100 * GIB))
    assert small == large


def test_data_comes_after_the_profile_and_before_the_node() -> None:
    node = _node()
    mine = extension("mine", "training", {"cache": "disk"}, origin="holdshort.toml")

    def sources(profile: Any, **arguments: Any) -> dict[str, tuple[Any, str]]:
        plan = resolve(
            profile, {**BUILT_IN, "mine": mine}, arguments=arguments, node=fit(node),
            data=lambda fixed: fit_data(_counted(GIB), node, fixed),
        )  # fmt: skip
        return {each.name: (each.value, each.source) for each in plan.applied}

    assert sources(TRAINING)["cache"] == ("memory", "data")
    assert sources(TRAINING)["cache_bytes"] == (8 * GIB, "data")
    assert sources(TRAINING)["memory_bytes"] == (8 * GIB, "this node")
    assert sources(mine)["cache"] == ("disk", "profile mine")
    assert sources(SERVING)["cache"] == ("disk", "profile serving")
    assert sources(SERVING)["cache_bytes"] == (300 * GIB, "data")
    assert sources(TRAINING, cache="none")["cache"] == ("none", "argument")
    assert sources(TRAINING, cache_bytes=GIB)["cache"] == ("disk", "data"), "what was asked for is too little"
    assert sources(BUILT_IN["checkpoint"])["cache"] == ("none", "profile checkpoint")
