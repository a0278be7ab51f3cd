"""Folders, globs and URLs: which files are read, in which order, under which names."""

from __future__ import annotations

import fnmatch
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdshort.jobs.input import RefusedInput, pack, parse, read_rows
from holdshort.jobs.input.patterns import Pattern
from holdshort.jobs.input.places import RemotePlace, redacted
from holdshort.storage.errors import MissingExtra, StoreUnavailable
from support.servers import SeaweedServer


def plant(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def ids(source: Any, **more: Any) -> list[str]:
    return [row.custom_id for row in read_rows(source, **more)]


def refused(source: Any, **more: Any) -> RefusedInput:
    with pytest.raises(RefusedInput) as caught:
        list(pack(read_rows(source, **more), shard_rows=10))
    return caught.value


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    plant(
        tmp_path,
        docs__a_txt="a", docs__b_md="b", docs__a__z_txt="z", docs__a__deep__c_py="c", docs___hidden_txt="no",
        docs___git__x_txt="no", docs__a_b__k_txt="k",
    )  # fmt: skip
    return tmp_path


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def test_a_folder_is_its_text_files_in_order_of_their_names(docs: Path) -> None:
    found = ids(docs / "docs")
    assert found == ["a.b/k.txt", "a.txt", "a/deep/c.py", "a/z.txt", "b.md"]
    assert found == sorted(found)
    assert ids(f"{docs}/docs/") == found


def test_rows_of_a_folder_are_named_by_their_path(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(docs)
    rows = list(read_rows("docs"))
    assert [(row.custom_id, row.where) for row in rows][1] == ("a.txt", "docs/a.txt")
    assert parse(rows[1].line) == ("a.txt", "", {"input": "a"})
    monkeypatch.chdir(docs / "docs")
    assert [row.where for row in read_rows(".")][1] == "./a.txt"
    assert [row.where for row in read_rows("*.txt")] == ["a.txt"]


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("docs/*.txt", ["a.txt"]),
        ("docs/*", ["a.txt", "b.md"]),
        ("docs/**/*.txt", ["a.b/k.txt", "a.txt", "a/z.txt"]),
        ("docs/**", ["a.b/k.txt", "a.txt", "a/deep/c.py", "a/z.txt", "b.md"]),
        ("docs/?.md", ["b.md"]),
        ("docs/[!a]*", ["b.md"]),
        ("docs/a/*/c.py", ["deep/c.py"]),
        ("docs/a/**/c.py", ["deep/c.py"]),
        ("docs/.*/x.txt", [".git/x.txt"]),
        ("docs/*/*/*", ["a/deep/c.py"]),
        ("*/a.txt", ["docs/a.txt"]),
    ],
)
def test_a_glob_is_its_files_named_from_its_root(docs: Path, glob: str, expected: list[str]) -> None:
    assert ids(f"{docs}/{glob}") == expected


def test_a_glob_without_a_match_names_the_working_directory(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(docs)
    for glob in ("docs/*.rst", "nowhere/*.txt"):
        assert str(refused(glob)) == (
            f"{glob}: no file matches.\nCheck the pattern; the working directory is {docs}. "
            "Hidden files are left out. Nothing was submitted."
        )


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    assert str(refused(tmp_path)) == (
        f"{tmp_path}: the folder holds no files.\nPut files there. Hidden ones are left out. Nothing was submitted."
    )


def test_what_is_left_out_of_a_folder_is_logged(docs: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(7):
        (docs / f"docs/{number}.png").touch()
    (docs / "docs/link").symlink_to(docs / "docs/a")
    (docs / "docs/loop.txt").symlink_to(docs / "docs")
    (docs / "docs/gone.txt").symlink_to(docs / "nothing")
    (docs / "docs/also.txt").symlink_to(docs / "docs/a.txt")
    with caplog.at_level(logging.INFO, "holdshort"):
        assert ids(docs / "docs") == ["a.b/k.txt", "a.txt", "a/deep/c.py", "a/z.txt", "also.txt", "b.md"]
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith(f"{docs}/docs: skipped 10 of the entries: ")
    for part in ("gone.txt (a broken link)", "link (a link to a folder)", "of no known kind", "and 5 more"):
        assert part in text


def test_a_folder_with_nothing_readable_says_what_it_holds(tmp_path: Path) -> None:
    plant(tmp_path, a_png="", b_bin="")
    (problem,) = refused(tmp_path).problems
    assert problem.code == "empty_input"
    assert problem.message == (
        "no file of a known kind is there, only: a.png (of no known kind), b.bin (of no known kind)."
    )
    assert problem.cure.startswith("Known are tables (.jsonl")


def test_a_folder_of_tables_is_all_their_rows(tmp_path: Path) -> None:
    plant(
        tmp_path,
        data__b_csv="id,text\nx,from csv\n",
        data__a_jsonl='{"input": "1"}\n\n{"custom_id": "own", "input": "2"}\n',
        data__c__d_ndjson='{"input": "3"}\n',
    )
    assert ids(tmp_path / "data") == ["a.jsonl/row-1", "own", "x", "c/d.ndjson/row-1"]
    assert ids(f"{tmp_path}/data/*.jsonl") == ["a.jsonl/row-1", "own"]


def test_one_custom_id_in_two_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plant(
        tmp_path,
        data__a_jsonl='{"input": "1"}\n{"custom_id": "own", "input": "2"}\n',
        data__b_jsonl='{"custom_id": "own", "input": "3"}\n',
    )
    assert str(refused("data")) == (
        'data/b.jsonl, line 1: custom_id "own" was used before, in data/a.jsonl, line 2.\n'
        "Each row needs its own custom_id, because results are matched by it. Nothing was submitted."
    )


def test_tables_among_texts_are_refused(tmp_path: Path) -> None:
    plant(tmp_path, data__README_md="about", data__a_jsonl='{"input": "1"}\n')
    assert str(refused(tmp_path / "data")) == (
        f"{tmp_path}/data: holds tables (a.jsonl) as well as text files (README.md), and it is not clear which "
        'of them are the rows.\nName one kind by a glob, for example "docs/**/*.md". Nothing was submitted.'
    )


def test_problems_of_several_files_are_told_together(tmp_path: Path) -> None:
    plant(tmp_path, d__a_txt="fine", d__b_txt="x", d__c_txt="y")
    (tmp_path / "d/b.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "d/c.txt").write_bytes(b"x\n\xff")
    assert [(p.where, p.code) for p in refused(tmp_path / "d").problems] == [
        (f"{tmp_path}/d/b.txt", "bad_encoding"),
        (f"{tmp_path}/d/c.txt, line 2", "bad_encoding"),
    ]


def test_an_unreadable_folder_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, d__a_txt="a", d__shut__b_txt="b")
    real = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert str(refused(tmp_path / "d")).startswith(f"{tmp_path}/d/shut: may not be read: permission denied.")


def test_what_the_caller_excludes_is_neither_read_nor_entered(docs: Path) -> None:
    asked: list[str] = []

    def exclude(path: str) -> bool:
        asked.append(path)
        return path in (f"{docs}/docs/a", f"{docs}/docs/b.md")

    assert ids(docs / "docs", exclude=exclude) == ["a.b/k.txt", "a.txt"]
    assert f"{docs}/docs/a/z.txt" not in asked


def test_excluded_paths_are_absolute(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(docs)
    asked: list[str] = []
    ids("docs/*.txt", exclude=lambda path: bool(asked.append(path)))
    assert asked == [f"{docs}/docs/a.txt"]


def test_a_file_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff.txt", "wb") as file:
        file.write(b"x")
    (problem,) = refused(tmp_path).problems
    assert (problem.code, problem.where) == ("bad_name", f"{tmp_path}/\\udcff.txt")


NAMES = st.text("ab.", min_size=1, max_size=3).filter(lambda name: not name.startswith("."))


@settings(deadline=None)
@given(
    st.lists(st.one_of(NAMES, st.sampled_from(["*", "**", "?", "a*"])), min_size=1, max_size=4),
    st.lists(NAMES, max_size=4),
)
def test_a_pattern_matches_what_its_parts_match(parts: list[str], names: list[str]) -> None:
    def matches(parts: list[str], names: list[str]) -> bool:
        if not parts:
            return not names
        if parts[0] == "**":
            return matches(parts[1:], names) or (bool(names) and matches(parts, names[1:]))
        return bool(names) and fnmatch.fnmatchcase(names[0], parts[0]) and matches(parts[1:], names[1:])

    parts = [part for part in parts if part != "."]
    pattern = Pattern("/".join(parts))
    state = pattern.start
    for name in names:
        state = pattern.step(state, name)
    assert pattern.is_match(state) == matches(parts, names)


def test_urls_are_read_like_paths(memory: Any) -> None:
    memory.pipe(
        {
            "/in/one.jsonl": b'{"input": "1"}\n',
            "/docs/b.txt": b"b",
            "/docs/a/c.txt.gz": b"",
            "/docs/a/d.md": b"d",
            "/docs/.hidden.txt": b"no",
            "/data/a.jsonl": b'{"input": "1"}\n',
            "/data/b.csv": b"text\nx\n",
        }
    )
    assert [(row.custom_id, row.where) for row in read_rows("memory://in/one.jsonl")] == [
        ("row-1", "memory://in/one.jsonl, line 1")
    ]
    memory.rm("/docs/a/c.txt.gz")
    assert [(row.custom_id, row.where) for row in read_rows("memory://docs")] == [
        ("a/d.md", "memory://docs/a/d.md"),
        ("b.txt", "memory://docs/b.txt"),
    ]
    assert ids("memory://docs/") == ["a/d.md", "b.txt"]
    assert ids("memory://docs/**/*.md") == ["a/d.md"]
    assert ids("memory://data/*") == ["a.jsonl/row-1", "b.csv/row-1"]
    asked: list[str] = []
    ids("memory://docs", exclude=lambda url: bool(asked.append(url)))
    assert asked == ["memory://docs/a", "memory://docs/a/d.md", "memory://docs/b.txt"]


def test_an_s3_bucket_is_read_like_a_folder(s3_server: SeaweedServer, s3_url: str) -> None:
    fs = fsspec.filesystem("s3", skip_instance_cache=True, **s3_server.options)
    base = s3_url.removeprefix("s3://")

    def read(path: str) -> list[tuple[str, str]]:
        rows = read_rows(f"{s3_url}/{path}", storage_options=s3_server.options)
        return [(row.custom_id, row.where.removeprefix(s3_url)) for row in rows]

    fs.pipe({f"{base}/docs/b.txt": b"b", f"{base}/docs/a/c.md": b"c", f"{base}/docs/a.txt": b"a"})
    fs.pipe(f"{base}/rows/one.jsonl", b'{"input":"%b"}\n' % (b"x" * 90) * 60_000)
    whole = [("a.txt", "/docs/a.txt"), ("a/c.md", "/docs/a/c.md"), ("b.txt", "/docs/b.txt")]
    assert read("docs") == read("docs/") == whole
    assert read("docs/*.txt") == [whole[0], whole[2]]
    assert read("docs/**/c.md") == [("a/c.md", "/docs/a/c.md")]
    assert read("rows/one.jsonl")[-1] == ("row-60000", "/rows/one.jsonl, line 60000")
    fs.pipe(f"{base}/docs/new.txt", b"new")
    assert read("docs")[-1] == ("new.txt", "/docs/new.txt"), "what was listed before may have changed"
    error = refused(f"{s3_url}/none.jsonl", storage_options=s3_server.options)
    assert error.problems[0].code == "missing_file"
    error = refused("s3://no-such-bucket/*.jsonl", storage_options=s3_server.options)
    assert error.problems[0].code == "no_match"


def test_a_missing_url_and_a_glob_without_a_match_are_refused(memory: Any) -> None:
    assert str(refused("memory://no/such.jsonl")) == (
        "memory://no/such.jsonl: there is no such file or folder.\nCheck the path. Nothing was submitted."
    )
    assert str(refused("memory://no/*.jsonl")) == (
        "memory://no/*.jsonl: no file matches.\nCheck the pattern. Hidden files are left out. Nothing was submitted."
    )


def test_a_chained_url_is_read(tmp_path: Path, memory: Any) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "docs.zip", "w") as archive:
        archive.writestr("docs/a.txt", "a")
    (row,) = read_rows(f"zip://docs/a.txt::file://{tmp_path}/docs.zip")
    assert parse(row.line) == ("a.txt", "", {"input": "a"})
    assert row.where == f"zip://docs/a.txt::file://{tmp_path}/docs.zip"


@pytest.mark.parametrize(("url", "extra"), [("s3://bucket/x.jsonl", "s3"), ("gs://bucket/x.jsonl", "gcs")])
def test_a_missing_backend_names_the_extra(url: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise ImportError("Install it", name="some_module")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(MissingExtra) as caught:
        list(read_rows(url))
    assert str(caught.value) == (
        f"reading {url} needs the Python module 'some_module', which is not installed. "
        f"Install it with: pip install 'holdshort[{extra}]'"
    )


def test_a_protocol_that_nobody_knows_is_refused() -> None:
    assert str(refused("nope://user:secret@host/x.jsonl")) == (
        "nope://host/x.jsonl: can't be opened: Protocol not known: nope.\n"
        "Check how the URL begins. Nothing was submitted."
    )


def test_a_file_system_that_does_not_answer_is_worth_waiting_for(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe("/in/a.jsonl", b"{}")

    def fails(*_: Any, **__: Any) -> Any:
        raise ConnectionError("reset")

    for method in ("info", "open"):
        with monkeypatch.context() as patch:
            patch.setattr(type(memory), method, fails)
            with pytest.raises(StoreUnavailable, match=r"memory://in/a\.jsonl can't be read for now: .*reset"):
                list(read_rows("memory://in/a.jsonl"))


def test_a_key_that_may_not_read_is_named(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> Any:
        raise PermissionError("Forbidden")

    monkeypatch.setattr(type(memory), "info", denied)
    assert refused("memory://in/a.jsonl").problems[0].code == "permission_denied"


def test_secrets_in_urls_are_not_shown() -> None:
    assert redacted("ftp://me:secret@host/a.jsonl") == "ftp://host/a.jsonl"
    assert redacted("https://host/a.jsonl?X-Signature=secret") == "https://host/a.jsonl"
    assert redacted("s3://bucket/a?.jsonl") == "s3://bucket/a?.jsonl"


def test_storage_options_reach_the_file_system() -> None:
    place = RemotePlace("memory://x", {"some_option": 1})
    assert place._fs.storage_options == {"some_option": 1}
