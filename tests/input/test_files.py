"""Single files: compression, encodings, long lines, and files that can't be read."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from holdshort.jobs.input import Limits, RefusedInput, parse, read_rows
from holdshort.jobs.input.streams import TooLong, lines

LINES = b"".join(b'{"input":"text %d"}\n' % number for number in range(20_000))
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor().compress,
}
SKIPPABLE = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"


def refused(source: Any, **more: Any) -> RefusedInput:
    with pytest.raises(RefusedInput) as caught:
        list(read_rows(source, **more))
    return caught.value


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_a_compressed_file_is_read(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"input.jsonl.{suffix}"
    file.write_bytes(COMPRESSIONS[suffix](LINES))
    rows = list(read_rows(file))
    assert len(rows) == 20_000
    assert parse(rows[-1].line) == ("row-20000", "", {"input": "text 19999"})


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_compressed_files_one_after_another_are_one(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"input.jsonl.{suffix}"
    file.write_bytes(COMPRESSIONS[suffix](LINES) + COMPRESSIONS[suffix](LINES))
    assert sum(1 for _ in read_rows(file)) == 40_000


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("cut", [1, 9, 5000])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, cut: int) -> None:
    file = tmp_path / f"input.jsonl.{suffix}"
    file.write_bytes(COMPRESSIONS[suffix](LINES)[:-cut])
    (problem,) = refused(file).problems
    assert problem.code == "bad_compression"
    assert problem.message.startswith(f"can't be decompressed as .{suffix}: ")
    assert problem.cure == "Check that it was copied whole and that its suffix says how it was compressed."


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_a_wrong_suffix_is_refused(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"input.jsonl.{suffix}"
    file.write_bytes(LINES)
    assert refused(file).problems[0].code == "bad_compression"


def test_skippable_frames_and_many_small_ones_are_read(tmp_path: Path) -> None:
    file = tmp_path / "input.jsonl.zst"
    compress = zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compress
    file.write_bytes(SKIPPABLE + b"".join(compress(line + b"\n") + SKIPPABLE for line in LINES.split(b"\n")[:2000]))
    assert sum(1 for _ in read_rows(file)) == 2000


def test_a_damaged_zstd_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "input.jsonl.zst"
    data = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(LINES))
    data[-1] ^= 1
    file.write_bytes(data)
    assert refused(file).problems[0].code == "bad_compression"


def test_utf16_is_refused_once_with_the_cure(tmp_path: Path) -> None:
    file = tmp_path / "input.jsonl"
    file.write_text('{"input":"x"}\n' * 50, encoding="utf-16")
    assert str(refused(file)) == (
        f"{file}: begins like UTF-16; text must be UTF-8.\n"
        "Save it as UTF-8, for example by: iconv -f UTF-16 -t UTF-8 <old >new. Nothing was submitted."
    )


def test_a_text_file_in_another_encoding_names_line_and_byte(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"first\nsecond caf\xe9\n")
    (problem,) = refused(file).problems
    assert problem.where == f"{file}, line 2"
    assert problem.message == "byte 0xE9 at offset 10 of the line is not UTF-8."


def test_a_text_file_is_one_row(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_bytes(b"\xef\xbb\xbf# Title\r\n\nText \x00\n")
    (row,) = read_rows(str(file))
    assert row.where == str(file)
    assert parse(row.line) == ("a.md", "", {"input": "# Title\r\n\nText \x00\n"})


def test_an_empty_text_file_is_an_empty_row(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (row,) = read_rows(tmp_path / "a.txt")
    assert parse(row.line) == ("a.txt", "", {"input": ""})


def test_a_text_file_longer_than_a_row_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"x" * 5_000_000)
    (problem,) = refused(file).problems
    assert (problem.where, problem.message) == (str(file), "is 5,000,000 bytes long; a row may have 4,194,304.")


@pytest.mark.parametrize("content", [b"", b"\n \n\r\n", b"\xef\xbb\xbf"])
def test_a_file_without_rows_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "input.jsonl"
    file.write_bytes(content)
    assert str(refused(file)) == f"{file}: holds no rows.\nSubmit at least one. Nothing was submitted."


def test_a_missing_file_is_refused_with_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(refused("input.jsonl")) == (
        "input.jsonl: there is no such file or folder.\n"
        f"Check the path; the working directory is {tmp_path}. Nothing was submitted."
    )


def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    file = tmp_path / "input.xlsx"
    file.touch()
    assert str(refused(file)) == (
        f"{file}: its suffix does not say how to read it (input.xlsx).\n"
        "Known are tables (.jsonl .ndjson .csv .parquet) and text files (.txt .md .rst .html .py and the like); "
        "all but .parquet also compressed (.gz .zst .bz2 .xz). Nothing was submitted."
    )


@pytest.mark.parametrize("name", ["noext", "a.gz", ".jsonl", "a.parquet.gz", "a.jsonl.part"])
def test_a_name_that_promises_nothing_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert refused(tmp_path / name).problems[0].code == "unknown_suffix"


def test_a_json_file_is_told_to_be_lines(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("[]")
    assert refused(tmp_path / "rows.json").problems[0].cure.startswith("Write one object per line, and name it .jsonl.")


def test_suffixes_may_be_upper_case(tmp_path: Path) -> None:
    (tmp_path / "A.JSONL").write_text('{"input": "x"}')
    assert len(list(read_rows(tmp_path / "A.JSONL"))) == 1


def test_permission_denied_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "input.jsonl"
    file.write_text("{}")
    file.chmod(0)
    if os.access(file, os.R_OK):  # a user whom no permission stops

        def denied(*_: Any, **__: Any) -> Any:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", denied)
    assert str(refused(file)) == (
        f"{file}: may not be read: permission denied.\nLet this user or key read it. Nothing was submitted."
    )


def test_a_named_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "input.jsonl")
    assert refused(tmp_path / "input.jsonl").problems[0].message == "is no regular file."


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    rows = read_rows(tmp_path)
    next(rows)
    (tmp_path / "b.txt").unlink()
    with pytest.raises(RefusedInput, match=r"b\.txt: is gone"):
        next(rows)


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("a")
    assert next(read_rows("~/a.txt")).custom_id == "a.txt"


def test_an_existing_file_with_glob_signs_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data[1].jsonl").write_text('{"input": "x"}')
    (row,) = read_rows(tmp_path / "data[1].jsonl")
    assert row.custom_id == "row-1"


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (row,) = read_rows(f"file://{tmp_path}/a.txt")
    assert row.custom_id == "a.txt"


def test_a_long_line_is_skipped_and_the_next_one_read(tmp_path: Path) -> None:
    file = tmp_path / "input.jsonl"
    long = b'{"input":"%b"}' % (b"x" * 2_000_000)
    file.write_bytes(b'{"input":"a"}\n' + long + b'\nbad\n{"input":"b"}\n')
    with pytest.raises(RefusedInput) as caught:
        list(read_rows(file, limits=Limits(row_bytes=1000)))
    assert [(p.line, p.code) for p in caught.value.problems] == [(2, "row_too_long"), (3, "bad_json")]
    assert caught.value.problems[0].message == "is 2,000,012 bytes long; a row may have 1,000."


@settings(deadline=None)
@given(st.lists(st.binary(max_size=12)), st.integers(1, 8))
def test_lines_are_the_same_however_the_bytes_come(chunks: list[bytes], limit: int) -> None:
    parts = b"".join(chunks).split(b"\n")
    if not parts[-1]:
        parts.pop()
    expected = [part if len(part) <= limit else len(part) for part in parts]
    assert [line.size if isinstance(line, TooLong) else line for line in lines(iter(chunks), limit)] == expected


HUGE_LINE = """
import sys
from holdshort.jobs.input import RefusedInput, pack, read_rows
try:
    list(pack(read_rows(sys.argv[1]), shard_rows=10))
except RefusedInput as error:
    print(error.problems[0].message)
    print([problem.code for problem in error.problems])
with open("/proc/self/status") as status:
    print(next(line for line in status if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.zst", "csv", "txt"])
def test_a_line_of_200_megabytes_takes_little_memory(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"huge.{suffix}"
    start = b'{"input":"a"}\n{"input":"' if "jsonl" in suffix else b"input\n"
    with file.open("wb") as plain:
        out = zstandard.ZstdCompressor().stream_writer(plain, closefd=False) if suffix.endswith("zst") else plain
        out.write(start)
        for _ in range(200):
            out.write(b"x" * 1_000_000)
        out.write(b'"}\nbad\n')
        if out is not plain:
            out.close()
    done = subprocess.run(
        [sys.executable, "-c", HUGE_LINE, str(file)], capture_output=True, text=True, check=True, timeout=60
    )
    message, codes, rss_kb = done.stdout.splitlines()
    expected = {
        "jsonl": ("is 200,000,012 bytes long; a row may have 4,194,304.", "['row_too_long', 'bad_json']"),
        "csv": ("the row that begins here is longer than 4,194,304 bytes.", "['row_too_long']"),
        "txt": ("is 200,000,013 bytes long; a row may have 4,194,304.", "['row_too_long']"),
    }[suffix.split(".")[0]]
    assert (message, codes) == expected
    assert int(rss_kb) < 120_000
