"""The object of a shard: what was put in comes out, or an error does; plain tools can read it."""

from __future__ import annotations

import io
import shutil
import subprocess

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from holdshort.jobs.ledger import shards
from holdshort.jobs.ledger.shards import SUMMARY_BYTES, Summary
from holdshort.jobs.record import Counts
from holdshort.storage.errors import Corrupt

LINES = st.lists(st.binary(max_size=60).filter(lambda line: b"\n" not in line), max_size=30)
NAMES = st.text(max_size=20)


@st.composite
def objects(draw: st.DrawFn) -> tuple[Summary, list[bytes]]:
    lines = draw(LINES)
    cuts = sorted(draw(st.lists(st.integers(0, len(lines)), min_size=3, max_size=3)))
    parts = [end - begin for begin, end in zip([0, *cuts], [*cuts, len(lines)], strict=True)]
    engine = draw(st.dictionaries(NAMES, NAMES, max_size=4))
    seconds = draw(st.floats(0, 1e9))
    return Summary(Counts(*parts), engine=engine, worker=draw(NAMES), engine_s=seconds), lines


def _example() -> tuple[Summary, list[bytes], bytes]:
    lines = [b'{"id":"%d","error":null}' % number for number in range(5)]
    summary = Summary(Counts(ok=3, error=1, expired=1), engine={"name": "e"}, worker="w", engine_s=0.25)
    return summary, lines, shards.encode(summary, lines)


@given(objects())
def test_what_was_encoded_is_decoded(content: tuple[Summary, list[bytes]]) -> None:
    summary, lines = content
    data = shards.encode(summary, lines)
    assert shards.decode(data) == (summary, lines)
    assert shards.summary(data) == shards.summary(data[:SUMMARY_BYTES]) == summary


@given(LINES)
def test_lines_alone_are_compressed_and_decompressed(lines: list[bytes]) -> None:
    assert shards.decompress(shards.compress(lines)) == lines


@given(objects())
@settings(max_examples=20)
def test_a_plain_reader_of_zstandard_sees_the_lines(content: tuple[Summary, list[bytes]]) -> None:
    summary, lines = content
    source = io.BytesIO(shards.encode(summary, lines))
    with zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True) as reader:
        assert reader.read() == b"".join(line + b"\n" for line in lines)


@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs the zstd command")
def test_the_zstd_command_sees_the_lines() -> None:
    _, lines, data = _example()
    done = subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True)
    assert done.stdout.split(b"\n") == [*lines, b""]


def test_an_object_that_was_cut_off_anywhere_is_corrupt() -> None:
    _, _, data = _example()
    for size in range(len(data)):
        with pytest.raises(Corrupt):
            shards.decode(data[:size])
    with pytest.raises(Corrupt):
        shards.decode(data + b"\0")
    with pytest.raises(Corrupt):
        shards.decode(data + data)


def test_any_flipped_bit_is_noticed_or_changes_nothing() -> None:
    summary, lines, data = _example()
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            try:
                # The format has bits that readers have to ignore.
                assert shards.decode(bytes(damaged)) == (summary, lines)
            except Corrupt:
                continue


def test_a_damaged_summary_is_noticed_without_reading_on() -> None:
    summary, _, data = _example()
    size = data.index(b"\x28\xb5\x2f\xfd")  # where the lines' frame begins
    assert shards.summary(data[:size]) == summary
    for position in range(size):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        with pytest.raises(Corrupt):
            shards.summary(bytes(damaged))


def test_counts_that_do_not_match_the_lines_are_refused() -> None:
    with pytest.raises(ValueError, match="3 lines, but the counts say 2"):
        shards.encode(Summary(Counts(ok=2)), [b"1", b"2", b"3"])


def test_a_summary_too_long_for_a_first_read_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        shards.encode(Summary(Counts(), worker="w" * SUMMARY_BYTES), [])
