"""Which profile fits, which values count, and that each says why."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdshort.profiles import BUILT_IN, CHECKPOINT, SERVING, TRAINING, Access, Value, choose, extension, resolve
from holdshort.profiles.access import MIB, NAMES
from holdshort.profiles.profile import Profile


@pytest.mark.parametrize(
    ("path", "profile"),
    [
        ("bucket/llama/model-00001-of-00004.safetensors", "serving"),
        ("bucket/llama/q4.gguf", "serving"),
        ("bucket/bert/pytorch_model.bin", "serving"),
        ("bucket/imagenet/train-0001.tar", "training"),
        ("bucket/c4/part-7.parquet", "training"),
        ("bucket/c4/c4-train.tfrecord-00001-of-01024", "training"),
        ("bucket/run/step-1000/model.safetensors", "checkpoint"),
        ("bucket/run/step-1000/", "checkpoint"),
        ("bucket/run/__0_0.distcp", "checkpoint"),
        ("bucket/run/last.ckpt", "checkpoint"),
        ("bucket/notes.txt", "plain"),
        ("bucket/first-step-1000.md", "plain"),
    ],
)
def test_the_path_tells(path: str, profile: str) -> None:
    choice = choose(path, BUILT_IN)
    assert choice.profile.name == profile
    assert choice.source == ("nothing" if profile == "plain" else "path")
    assert choice.why


def test_a_name_comes_before_the_job_and_that_before_the_path() -> None:
    path = "bucket/a.safetensors"
    assert choose(path, BUILT_IN, name="training", job="checkpoint").profile is TRAINING
    assert choose(path, BUILT_IN, name="auto", job="checkpoint").profile is CHECKPOINT
    assert choose(path, BUILT_IN, job="batch").profile is SERVING


@pytest.mark.parametrize("profile", BUILT_IN.values(), ids=lambda profile: profile.name)
def test_every_value_of_a_profile_has_a_reason(profile: Profile) -> None:
    assert all(value.reason for value in profile)
    assert len({value.name for value in profile}) == len(profile.values)


def test_an_argument_comes_before_the_users_table_that_before_the_profile_and_the_node_last() -> None:
    mine = extension("mine", "training", {"part_bytes": 2 * MIB, "connections": 8}, origin="holdshort.toml")
    node = (Value("memory_bytes", 100 * MIB, "a small machine"), Value("part_bytes", MIB, "never asked"),
            Value("cache", "disk", "it is there"), Value("cache_bytes", 0, "a full disk"))  # fmt: skip
    plan = resolve(mine, {**BUILT_IN, "mine": mine}, arguments={"connections": 3}, node=node)
    sources = {applied.name: (applied.value, applied.source) for applied in plan.applied}
    assert sources["connections"] == (3, "argument")
    assert sources["part_bytes"] == (2 * MIB, "profile mine")
    assert sources["freshness_s"] == (inf, "profile training")
    assert sources["memory_bytes"] == (100 * MIB, "this node")
    assert [name for name, (_, source) in sources.items() if source == "built in"] == ["when_replaced"]
    assert [applied.name for applied in plan.applied] == list(NAMES)
    assert all(applied.reason for applied in plan.applied)
    assert plan.access.connections == 3


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"part_bytes": 1}, "part_bytes is 1; it has to be a number from 65536"),
        ({"part_bytes": 8e6}, "whole number"),
        ({"connections": True}, "connections is True"),
        ({"gap_bytes": -1}, "gap_bytes is -1"),
        ({"read_ahead": "much"}, "one of none, adaptive, whole"),
        ({"parts": 1}, "there is no value 'parts'; there are part_bytes, "),
    ],
)
def test_a_value_that_cant_be_is_refused_with_what_can(values: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        extension("mine", "training", values, origin="holdshort.toml")
    with pytest.raises(ValueError, match=said):
        resolve(TRAINING, arguments=values)


def test_a_profile_that_extends_nothing_known_or_itself_is_refused() -> None:
    lost = extension("lost", "trainig", {}, origin="holdshort.toml")
    with pytest.raises(ValueError, match="extends 'trainig', which there is not"):
        resolve(lost, BUILT_IN)
    a, b = extension("a", "b", {}, origin="x"), extension("b", "a", {}, origin="x")
    with pytest.raises(ValueError, match="extends itself"):
        resolve(a, {"a": a, "b": b})


@given(st.dictionaries(st.sampled_from(["part_bytes", "gap_bytes", "read_ahead_bytes"]), st.integers(2**16, 2**30)))
def test_what_is_asked_for_always_counts(arguments: dict[str, int]) -> None:
    access = resolve(SERVING, BUILT_IN, arguments=arguments).access
    assert isinstance(access, Access)
    assert all(getattr(access, name) == value for name, value in arguments.items())
