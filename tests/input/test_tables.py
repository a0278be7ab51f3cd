"""CSV and Parquet."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from holdshort.jobs.input import Limits, RefusedInput, pack, parse, read_rows
from holdshort.storage.errors import MissingExtra


def refused(source: Any, **more: Any) -> RefusedInput:
    with pytest.raises(RefusedInput) as caught:
        list(pack(read_rows(source, **more), shard_rows=10))
    return caught.value


def csv_file(tmp_path: Path, text: str | bytes) -> Path:
    file = tmp_path / "t.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def told(tmp_path: Path, text: str | bytes, **more: Any) -> list[str]:
    error = refused(csv_file(tmp_path, text), **more)
    return [f"{p.where}: {p.message}".replace(f"{tmp_path}/", "") for p in error.problems]


def test_csv_columns_are_input_id_and_metadata(tmp_path: Path) -> None:
    file = csv_file(tmp_path, 'id,input,lang\na,"say ""hi"", twice",en\nb,,de\n')
    assert [parse(row.line) for row in read_rows(file)] == [
        ("a", "", {"input": 'say "hi", twice', "metadata": {"lang": "en"}}),
        ("b", "", {"input": "", "metadata": {"lang": "de"}}),
    ]


def test_csv_with_text_only_gets_ids_by_row(tmp_path: Path) -> None:
    rows = list(read_rows(csv_file(tmp_path, "\ufefftext\none\n\ntwo\n")))
    assert [parse(row.line) for row in rows] == [("row-1", "", {"input": "one"}), ("row-2", "", {"input": "two"})]
    assert [row.where for row in rows] == [f"{tmp_path}/t.csv, line 2", f"{tmp_path}/t.csv, line 4"]


def test_csv_fields_may_hold_line_breaks_and_lines_are_counted_right(tmp_path: Path) -> None:
    file = csv_file(tmp_path, 'custom_id,text\r\na,"one\r\ntwo\n\nthree"\r\nb,x\r\n')
    rows = list(read_rows(file))
    assert parse(rows[0].line)[2] == {"input": "one\r\ntwo\n\nthree"}
    assert [row.where[-6:] for row in rows] == ["line 2", "line 6"]


def test_csv_prefers_input_and_custom_id(tmp_path: Path) -> None:
    (row,) = read_rows(csv_file(tmp_path, "text,id,input,custom_id\nt,i,n,c\n"))
    assert parse(row.line) == ("c", "", {"input": "n", "metadata": {"text": "t", "id": "i"}})


def test_csv_fields_may_be_long(tmp_path: Path) -> None:
    (row,) = read_rows(csv_file(tmp_path, f"text\n{'x' * 1_000_000}\n"))
    assert len(row.line) > 1_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["t.csv: holds no rows."]),
        ("input\n", ["t.csv: holds no rows."]),
        ("a,b\n1,2\n", ['t.csv: has no column "input" or "text", only: a, b.']),
        ("input,x,x\n1,2,3\n", ['t.csv: has two columns named "x".']),
        ("input,x\n1\n1,2\n1,2,3\n", [
            "t.csv, line 2: has 1 fields, but the header has 2.",
            "t.csv, line 4: has 3 fields, but the header has 2.",
        ]),
        ('input\nfine\n"open\nx\n', ["t.csv, line 3: the row that begins here is not CSV: unexpected end of data."]),
        ('input\n"a"b\n', ["t.csv, line 2: the row that begins here is not CSV: ',' expected after '\"'."]),
        ("id,input\na,x\n,y\na,z\n", [
            "t.csv, line 3: custom_id is empty.",
            't.csv, line 4: custom_id "a" was used before, on line 2.',
        ]),
        (b"input\nfine\ncaf\xe9\n", ["t.csv, line 3: byte 0xE9 at offset 3 of the line is not UTF-8."]),
    ],
)  # fmt: skip
def test_a_bad_csv_file_is_named_with_its_line(tmp_path: Path, text: str | bytes, expected: list[str]) -> None:
    assert told(tmp_path, text) == expected


def test_a_csv_file_with_other_separators_is_told_so(tmp_path: Path) -> None:
    (problem,) = refused(csv_file(tmp_path, "id;text\na;x\n")).problems
    assert problem.cure == (
        "Separate the columns by commas, not by ';'. Name the column to infer on \"input\" in the first line."
    )


def test_an_open_quote_does_not_swallow_the_file(tmp_path: Path) -> None:
    text = 'input\nfine\n"open\n' + "x" * 50 + "\n" * 1000
    assert told(tmp_path, text, limits=Limits(row_bytes=500)) == [
        "t.csv, line 3: the row that begins here is longer than 500 bytes."
    ]


def parquet_file(tmp_path: Path, columns: dict[str, Any], **more: Any) -> Path:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    file = tmp_path / "t.parquet"
    parquet.write_table(arrow.table(columns), file, **more)
    return file


def test_parquet_columns_are_input_id_and_metadata(tmp_path: Path) -> None:
    file = parquet_file(tmp_path, {"id": [1, 2], "text": ["a", "é\n"], "score": [0.5, None], "tags": [["x"], []]})
    rows = list(read_rows(file))
    assert [parse(row.line) for row in rows] == [
        ("1", "", {"input": "a", "metadata": {"score": 0.5, "tags": ["x"]}}),
        ("2", "", {"input": "é\n", "metadata": {"score": None, "tags": []}}),
    ]
    assert [row.where for row in rows] == [f"{file}, row 1", f"{file}, row 2"]


def test_parquet_is_read_across_row_groups_and_dictionaries(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    texts = arrow.array([f"text {number % 10}" for number in range(5000)]).dictionary_encode()
    rows = list(read_rows(parquet_file(tmp_path, {"input": texts}, row_group_size=700)))
    assert [row.custom_id for row in rows] == [f"row-{number}" for number in range(1, 5001)]
    assert parse(rows[4999].line)[2] == {"input": "text 9"}


def test_parquet_dates_and_decimals_become_text(tmp_path: Path) -> None:
    import datetime as dt
    from decimal import Decimal

    file = parquet_file(
        tmp_path,
        {
            "input": ["a"],
            "day": [dt.date(2024, 5, 1)],
            "at": [dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)],
            "p": [Decimal("1.10")],
        },
    )
    (row,) = read_rows(file)
    assert parse(row.line)[2]["metadata"] == {"day": "2024-05-01", "at": "2024-05-01T12:00:00+00:00", "p": "1.10"}


def test_parquet_on_a_url_is_read(tmp_path: Path) -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.pipe("/parquet/t.parquet", parquet_file(tmp_path, {"text": ["a", "b"]}).read_bytes())
    try:
        assert [row.custom_id for row in read_rows("memory://parquet/t.parquet")] == ["row-1", "row-2"]
    finally:
        fs.rm("/parquet", recursive=True)


@pytest.mark.parametrize(
    ("columns", "where", "message"),
    [
        ({"input": ["a", None]}, ", row 2", '"input" is null.'),
        ({"input": ["a"], "id": [None]}, ", row 1", "custom_id is null, not a string."),
        ({"input": ["a", "b"], "id": ["x", "x"]}, ", row 2", 'custom_id "x" was used before, in row 1.'),
        ({"a": ["a"]}, "", 'has no column "input" or "text", only: a.'),
        ({"input": [1]}, "", 'the column "input" is of type int64, not text.'),
        ({"input": ["a"], "image": [b"\0"]}, "", 'the column "image" is of type binary, which JSON can\'t carry.'),
    ],
)
def test_a_bad_parquet_file_is_named_with_its_row(
    tmp_path: Path, columns: dict[str, Any], where: str, message: str
) -> None:
    file = parquet_file(tmp_path, columns)
    (problem,) = refused(file).problems
    assert (problem.where, problem.message) == (f"{file}{where}", message)


def test_what_is_not_parquet_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    file = tmp_path / "t.parquet"
    file.write_bytes(b"PAR1 nothing PAR1")
    assert refused(file).problems[0].code == "bad_parquet"
    file.write_bytes(b"")
    assert refused(file).problems[0].code == "bad_parquet"


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    file = parquet_file(tmp_path, {"input": [f"text {number}" for number in range(5000)]}, compression="zstd")
    data = bytearray(file.read_bytes())
    data[100:400] = b"\xff" * 300
    file.write_bytes(data)
    assert refused(file).problems[0].code == "bad_parquet"


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "t.parquet"
    file.touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"pip install 'holdshort\[parquet\]'"):
        list(read_rows(file))
