"""Two ways to bring code of your own: a function (most need no more), and an engine.

The function is what the pool `words` in holdshort.toml calls. To use the engine in a pool, a package registers it:

    [project.entry-points."holdshort.engines"]
    wordcount = "own_engine:WordCount"

Running this file answers three rows by the engine's methods, in the order in which a worker calls them.
"""

from collections.abc import Sequence
from typing import Any

from holdshort.jobs import Row, RowError
from holdshort.workers.engines.protocol import BaseEngine, EngineInfo, Unit


def count_words(rows: list[Row]) -> list[dict[str, Any]]:
    """One answer per row, in order."""
    return [{"words": len(str(row.body["input"]).split())} for row in rows]


class WordCount(BaseEngine):
    """Counts words, paragraph by paragraph.

    Args:
        longest: characters that a row may have; from `options` in holdshort.toml.
    """

    def __init__(self, longest: int = 100_000) -> None:
        self._longest = longest

    @property
    def info(self) -> EngineInfo:
        """Recorded with each shard; change the version whenever results might change."""
        return EngineInfo("wordcount", "1")

    def load(self) -> None:
        """Here a model would be loaded, once per process."""

    def units(self, row: Row) -> Sequence[Unit] | RowError:
        """Cut a row into what can be executed by itself: here its paragraphs."""
        text = row.body.get("input")
        if not isinstance(text, str):
            return RowError("bad_input", '"input" has to be text')
        if len(text) > self._longest:
            return RowError("too_long", f"{len(text):,} characters; {self._longest:,} are allowed. Split the row.")
        return [Unit(cost=max(1, len(part)), payload=part) for part in text.split("\n\n")]

    def infer(self, units: Sequence[Unit]) -> Sequence[int]:
        """Execute one micro-batch: units of any rows, one output each, in order."""
        return [len(unit.payload.split()) for unit in units]

    def finish(self, row: Row, outputs: Sequence[int]) -> dict[str, Any]:
        """The row's answer from the outputs of its units."""
        return {"words": sum(outputs), "paragraphs": len(outputs)}


def main() -> None:
    engine = WordCount(longest=40)
    engine.load()
    for index, text in enumerate(["hold short", "line up\n\nand wait", "go around " * 10]):
        row = Row(index=index, custom_id=f"row-{index}", body={"input": text})
        units = engine.units(row)
        answer = units if isinstance(units, RowError) else engine.finish(row, engine.infer(units))
        print(f"{row.custom_id}: {answer}")
    engine.close()


if __name__ == "__main__":
    main()
