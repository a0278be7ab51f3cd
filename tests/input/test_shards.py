"""Packing rows into shards, reading them back, and telling repeated custom_ids."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from holdshort.jobs.input import ContentDigest, InputRow, Limits, RefusedInput, pack, parse, read_rows, unpack
from holdshort.jobs.input.identifiers import Identifiers, Repeated
from holdshort.storage.errors import Corrupt, StoreFull

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
BODIES = st.dictionaries(TEXT, JSON, max_size=5)


def rows_of(count: int, size: int = 10) -> Iterator[InputRow]:
    return read_rows([{"custom_id": f"doc-{number}", "input": "x" * size} for number in range(count)])


def lines_of(rows: Any, **more: Any) -> list[bytes]:
    return [line for shard in pack(rows, **more) for line in unpack(shard.data)]


@settings(deadline=None, max_examples=50)
@given(st.lists(BODIES, min_size=1, max_size=12), st.integers(1, 5))
def test_any_body_comes_back_as_it_was(bodies: list[dict[str, Any]], shard_rows: int) -> None:
    lines = lines_of(read_rows([{"body": body, "url": "/v1/x"} for body in bodies]), shard_rows=shard_rows)
    assert [parse(line) for line in lines] == [(f"row-{n}", "/v1/x", body) for n, body in enumerate(bodies, 1)]


@settings(deadline=None, max_examples=50)
@given(st.lists(TEXT, min_size=1, max_size=12))
def test_any_text_comes_back_as_it_was(texts: list[str]) -> None:
    lines = lines_of(read_rows(texts), shard_rows=3)
    assert [parse(line)[2] for line in lines] == [{"input": text} for text in texts]
    assert not any(b"\n" in line for line in lines)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.builds(lambda body, text: {**body, "input": text}, BODIES, TEXT), max_size=5))
def test_a_file_and_python_rows_give_the_same(tmp_path_factory: pytest.TempPathFactory, bodies: list[Any]) -> None:
    import orjson

    bodies = [{**body, "custom_id": f"id-{n}"} for n, body in enumerate([*bodies, {"input": "x"}])]
    file = tmp_path_factory.mktemp("same") / "input.jsonl"
    file.write_bytes(b"\n".join(orjson.dumps(body) for body in bodies))
    assert [parse(row.line) for row in read_rows(file)] == [parse(row.line) for row in read_rows(bodies)]


def test_a_shard_is_closed_at_its_rows() -> None:
    shards = list(pack(rows_of(10), shard_rows=4))
    assert [(shard.index, shard.rows, len(unpack(shard.data))) for shard in shards] == [(0, 4, 4), (1, 4, 4), (2, 2, 2)]
    assert [shard.rows for shard in pack(rows_of(8), shard_rows=4)] == [4, 4]


def test_a_shard_is_closed_at_its_bytes() -> None:
    limits = Limits(shard_bytes=1000)
    shards = list(pack(rows_of(20, size=200), shard_rows=100, limits=limits))
    assert [shard.rows for shard in shards] == [4] * 5
    for shard in shards:
        assert sum(len(line) + 1 for line in unpack(shard.data)) <= 1000
    assert [shard.rows for shard in pack(rows_of(3, size=2000), shard_rows=100, limits=limits)] == [1, 1, 1]


def test_shards_are_given_before_all_rows_are_read() -> None:
    taken: list[str] = []

    def rows() -> Iterator[InputRow]:
        for row in rows_of(1000):
            taken.append(row.custom_id)
            yield row

    assert next(pack(rows(), shard_rows=3)).rows == 3
    assert taken == ["doc-0", "doc-1", "doc-2", "doc-3"]


def test_a_shard_is_plain_zstandard_with_a_checksum() -> None:
    (shard,) = pack(rows_of(3), shard_rows=10)
    parameters = zstandard.get_frame_parameters(shard.data)
    assert parameters.has_checksum
    text = zstandard.ZstdDecompressor().decompress(shard.data)
    assert text.endswith(b"\n")
    assert parameters.content_size == len(text)


def test_a_damaged_or_truncated_shard_is_corrupt() -> None:
    (shard,) = pack(rows_of(50), shard_rows=100)
    flipped = bytearray(shard.data)
    flipped[-1] ^= 1
    torn = zstandard.ZstdCompressor(write_checksum=True).compress(b'{"custom_id"')
    for data in (bytes(flipped), shard.data[:-1], shard.data[:10], b"", b"nonsense", shard.data + b"x", torn):
        with pytest.raises(Corrupt, match="a shard of the input"):
            unpack(data)


@pytest.mark.parametrize("line", [b"", b"[]", b"{}", b'{"custom_id":"a"}', b"7"])
def test_a_line_that_is_no_row_is_corrupt(line: bytes) -> None:
    with pytest.raises(Corrupt, match="not a row"):
        parse(line)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 30), st.integers(50, 500))
def test_the_digest_does_not_depend_on_sharding(shard_rows: int, shard_bytes: int) -> None:
    digest = ContentDigest()

    def digested() -> Iterator[InputRow]:
        for row in rows_of(30):
            digest.update(row)
            yield row

    lines = lines_of(digested(), shard_rows=shard_rows, limits=Limits(shard_bytes=shard_bytes))
    assert digest.hexdigest() == hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()


def test_the_digest_tells_order_and_content_apart() -> None:
    def digest(*texts: str) -> str:
        found = ContentDigest()
        for row in read_rows(texts):
            found.update(row)
        return found.hexdigest()

    assert digest("a", "b") == digest("a", "b")
    assert len({digest("a", "b"), digest("b", "a"), digest("ab"), digest("a")}) == 4


def test_no_rows_are_refused() -> None:
    with pytest.raises(RefusedInput, match="holds no rows"):
        list(pack([], shard_rows=3))


def test_a_repeated_custom_id_is_told_as_documented() -> None:
    rows = [InputRow(f"doc-{n % 3}", b"{}", f"input.jsonl, line {n + 10}") for n in range(5)]
    with pytest.raises(RefusedInput) as caught:
        list(pack(rows[:4], shard_rows=3))
    assert str(caught.value) == (
        'input.jsonl, line 13: custom_id "doc-0" was used before, on line 10.\n'
        "Each row needs its own custom_id, because results are matched by it. Nothing was submitted."
    )
    assert caught.value.problems[0].line == 13
    with pytest.raises(RefusedInput, match=r"And 1 more problem\. Nothing"):
        list(pack(rows, shard_rows=3))


def test_no_shards_are_given_once_a_repeat_is_known() -> None:
    rows = [InputRow("same" if n in (0, 5) else f"{n}", b"{}", f"row {n}") for n in range(100)]
    given_out: list[int] = []
    with pytest.raises(RefusedInput):
        given_out.extend(shard.index for shard in pack(rows, shard_rows=2))
    assert given_out == [0, 1]


def test_a_text_and_a_mapping_may_not_share_a_name() -> None:
    with pytest.raises(RefusedInput, match=r'row 2: custom_id "row-1" was used before, in row 1\.'):
        list(pack(read_rows(["a", {"custom_id": "row-1", "input": "b"}]), shard_rows=2))


def test_a_refusal_survives_pickling() -> None:
    with pytest.raises(RefusedInput) as caught:
        list(read_rows([1, 2]))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.problems, copy.complete) == (str(caught.value), caught.value.problems, True)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 30)), st.integers(1, 8))
def test_repeats_are_exact_across_the_spill(numbers: list[int], in_memory: int) -> None:
    first: dict[int, int] = {}
    expected: list[tuple[str, str]] = []
    for place, number in enumerate(numbers):
        if first.setdefault(number, place) != place:
            expected.append((f"at {place}", f"at {first[number]}"))
    with Identifiers(in_memory) as seen:
        found: list[Repeated] = []
        for place, number in enumerate(numbers):
            if repeated := seen.add(f"id {number}\ud800\n", f"at {place}"):
                found.append(repeated)
        later = seen.finish(1000)
    assert later == sorted(later, key=lambda repeated: repeated.number)
    told = {repeated.where for repeated in found + later}
    assert told == {where for where, _ in expected}
    assert {repeated.where: repeated.earlier for repeated in later}.items() <= dict(expected).items()


def test_a_repeat_across_the_spill_refuses_the_job() -> None:
    def rows() -> Iterator[InputRow]:
        for number in range(120_000):
            yield InputRow("doc-17" if number == 110_000 else f"doc-{number}", b"{}", f"input.jsonl, line {number + 1}")

    with pytest.raises(RefusedInput) as caught:
        list(pack(rows(), shard_rows=1000))
    assert str(caught.value).startswith('input.jsonl, line 110001: custom_id "doc-17" was used before, on line 18.\n')
    assert len(caught.value.problems) == 1


def test_only_the_first_of_many_repeats_are_kept() -> None:
    with Identifiers(100) as seen:
        for number in range(1000):
            seen.add(f"{number % 500}", f"row {number}")
        found = seen.finish(3)
    assert [(repeated.where, repeated.earlier) for repeated in found] == [
        ("row 500", "row 0"), ("row 501", "row 1"), ("row 502", "row 2"),
    ]  # fmt: skip


def test_no_space_for_temporary_files_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with Identifiers(1) as seen, pytest.raises(StoreFull, match=r"No space left on device.*TMPDIR"):
        seen.add("a", "row 1")


MANY_ROWS = """
import random
from holdshort.jobs.input import ContentDigest, pack, read_rows
noise = random.Random(1).randbytes(100_000).hex()
def rows():
    for number in range(300_000):
        start = number * 37 % 190_000
        yield {"custom_id": f"doc-{number * 7919 % 300_007:x}-{number}", "input": noise[start : start + 2000]}
digest = ContentDigest()
def digested():
    for row in read_rows(rows()):
        digest.update(row)
        yield row
count = size = 0
for shard in pack(digested(), shard_rows=4096):
    count += shard.rows
    size = max(size, len(shard.data))
with open("/proc/self/status") as status:
    print(count, next(line for line in status if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.slow
def test_600_megabytes_in_300_000_rows_take_little_memory() -> None:
    done = subprocess.run([sys.executable, "-c", MANY_ROWS], capture_output=True, text=True, check=True, timeout=120)
    count, rss_kb = done.stdout.split()
    assert int(count) == 300_000
    assert int(rss_kb) < 200_000
