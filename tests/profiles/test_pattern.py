"""What was seen of objects tells which profile fits them."""

from __future__ import annotations

import pytest

from holdshort.profiles import BUILT_IN
from holdshort.profiles.pattern import Observed
from support.traces import TRACES

EXPECTED = {
    "in_order_once": "in order, once",
    "shards_in_every_epoch": "in order, again and again",
    "samples_at_random": "small reads at random",
    "many_small_files": "in order, again and again",
    "ranges_at_once": "many ranges at once",
    "columns_of_tables": "footer, then ranges",
    "weights_by_one": "header, then tensors",
    "weights_by_replicas": "one object, many readers",
    "one_file_by_all_ranks": "one object, many readers",
    "checkpoints_written": "written once",
    "a_log_that_grows": "append",
    "a_restore": "in order, once",
    "backwards": "small reads at random",
}


@pytest.mark.parametrize("name", TRACES)
def test_each_pattern_is_told(name: str) -> None:
    observed = Observed()
    for event in TRACES[name]():
        observed.tell(event)
    pattern = observed.pattern()
    assert pattern is not None
    assert pattern.name == EXPECTED[name]
    assert pattern.signals
    assert pattern.name in pattern.choice(BUILT_IN).why
