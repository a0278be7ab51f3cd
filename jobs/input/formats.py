"""Which shape a file's name promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["jsonl", "csv", "parquet", "text"]
Compression = Literal["", "gz", "zst", "bz2", "xz"]

_TABLES: dict[str, Kind] = {"jsonl": "jsonl", "ndjson": "jsonl", "csv": "csv", "parquet": "parquet"}
_COMPRESSIONS: dict[str, Compression] = {"gz": "gz", "zst": "zst", "bz2": "bz2", "xz": "xz"}
_TEXT_NAMES = """
txt text md markdown rst adoc asciidoc org tex bib html htm xhtml xml svg log eml srt vtt py pyi
ipynb js mjs cjs jsx ts tsx java kt kts scala groovy go rs c h cc cpp cxx hpp hh cs m mm swift
rb php pl pm lua r jl hs ml mli ex exs erl clj lisp el f90 sh bash zsh fish ps1 bat sql css scss
less vue yaml yml toml ini cfg conf properties proto graphql tf cmake mk gradle diff patch
"""
_TEXTS = frozenset(_TEXT_NAMES.split())

KNOWN_SUFFIXES = (
    "Known are tables (.jsonl .ndjson .csv .parquet) and text files (.txt .md .rst .html .py and the like); "
    "all but .parquet also compressed (.gz .zst .bz2 .xz)."
)


@dataclass(frozen=True, slots=True)
class Format:
    """How a file is to be read."""

    kind: Kind
    compression: Compression

    @property
    def is_table(self) -> bool:
        """Whether the file holds many rows; a text file is one row."""
        return self.kind != "text"


def format_of(name: str) -> Format | None:
    """The format that a file's name promises by its suffix; None when it promises none that is known."""
    parts = name.rpartition("/")[2].lower().lstrip(".").split(".")[1:]
    compression: Compression = ""
    if parts and parts[-1] in _COMPRESSIONS:
        compression = _COMPRESSIONS[parts.pop()]
    if not parts:
        return None
    kind: Kind | None = "text" if parts[-1] in _TEXTS else _TABLES.get(parts[-1])
    if kind is None or (kind == "parquet" and compression):
        return None
    return Format(kind, compression)
