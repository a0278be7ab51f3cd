"""The demo: its figures are computed right, and it runs as a whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdshort.cli.demo import page
from holdshort.cli.demo.figures import Phase, busy_s, documents_between, figures, harvest, lost_s, quantile, yields
from holdshort.cli.demo.report import busy_warning, cells, machine, outcome, summary
from holdshort.cli.demo.show import Shown
from holdshort.cli.demo.timeline import timeline
from holdshort.cli.demo.traffic import Answered, Pieces, bursts
from holdshort.cli.demo.watch import LaneWatch
from holdshort.workers.lane.place import LanePlace
from holdshort.workers.lane.source import Source
from support.models import smollm2_folder
from support.waiting import eventually


def test_the_schedule_is_the_same_for_the_same_seed_and_has_its_gaps() -> None:
    one = bursts(7, seconds=60, answer_s=0.5, burst=4, idle_s=3.0, tokens=32)
    assert one == bursts(7, seconds=60, answer_s=0.5, burst=4, idle_s=3.0, tokens=32)
    assert one != bursts(8, seconds=60, answer_s=0.5, burst=4, idle_s=3.0, tokens=32)
    gaps = [later.at_s - earlier.at_s for earlier, later in pairwise(one)]
    assert min(gaps) >= 0.5
    assert sum(gap > 1.5 for gap in gaps) == (len(one) - 1) // 4
    assert one[-1].at_s + 0.5 <= 60
    assert len({ask.prompt for ask in one}) == len(one), "each prompt is unlike the others"


def test_latency_counts_from_the_schedule_and_gaps_from_token_to_token() -> None:
    answers = [Answered(10.0, [10.2, 10.21, 10.24]), Answered(11.0, [], "status 502")]
    found = figures(Phase("alone", 10.0, 12.0, answers, documents=30))
    assert found.requests == 2
    assert found.failed == 1
    assert found.first_p50_s == pytest.approx(0.2)
    assert found.token_p95_s == pytest.approx(0.03)
    assert found.documents_per_s == 15.0
    assert figures(Phase("alone", 0.0, 1.0, [])).first_p50_s is None


def test_an_answer_that_ends_after_its_phase_counts_as_late_and_in_full() -> None:
    found = figures(Phase("unprotected", 10.0, 12.0, [Answered(11.5, [14.5, 14.6]), Answered(10.0, [10.5])]))
    assert (found.requests, found.failed, found.late) == (2, 0, 1)
    assert found.first_p95_s == pytest.approx(3.0)


@given(st.data())
def test_tokens_are_counted_once_however_the_stream_is_cut(data: st.DataObject) -> None:
    events = [b'data: {"choices":[{"delta":{"role":"assistant","content":null}}]}\n\n']
    events += [b'data: {"choices":[{"delta":{"content":"%d"}}]}\n\n' % number for number in range(5)]
    stream = b"".join([*events, b"data: [DONE]\n\n"])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    pieces = Pieces()
    counted = sum(pieces.feed(stream[begin:end]) for begin, end in pairwise([0, *cuts, len(stream)]))
    assert counted == 5
    assert pieces.has_ended
    broken = Pieces()
    assert broken.feed(stream[: stream.index(b"[DONE]")]) == 5
    assert not broken.has_ended


@given(st.lists(st.tuples(st.floats(0, 90), st.floats(0.01, 20)), max_size=30))
def test_busy_time_is_the_union_of_the_requests(spans: list[tuple[float, float]]) -> None:
    answers = [Answered(begin, [begin + length]) for begin, length in spans]
    steps = 5000
    covered = sum(any(b <= (t + 0.5) * 100 / steps < b + n for b, n in spans) for t in range(steps)) * 100 / steps
    assert busy_s(answers, 0.0, 100.0) == pytest.approx(covered, abs=0.03 * (len(spans) + 1))


def test_harvest_compares_with_what_the_chat_leaves() -> None:
    assert harvest(150, alone_per_s=30.0, idle_s=10.0) == 0.5
    assert harvest(0, alone_per_s=0.0, idle_s=10.0) is None
    assert harvest(300, alone_per_s=30.0, idle_s=0.2) is None, "33 times what was possible says nothing"
    trace = [{"event": "finished", "at": at, "rows": 2} for at in (0.9, 1.0, 1.9, 2.0)] + [{"event": "ran", "at": 1.5}]
    assert documents_between(trace, 1.0, 2.0) == 4
    assert quantile([], 0.5) is None


def test_what_a_hold_costs_is_counted_within_the_phase() -> None:
    trace = [
        {"event": "yielded", "at": 1.5, "raised": 1.4, "seen": 1.401, "still": 1.403},
        {"event": "yielded", "at": 2.5, "raised": 2.4, "seen": 2.401, "still": 2.402},
        {"event": "lost", "at": 1.5, "seconds": 0.02, "rows": 1},
        {"event": "lost", "at": 0.5, "seconds": 0.5, "rows": 1},
    ]
    assert yields(trace, 1.0, 2.0) == pytest.approx([0.003])
    assert lost_s(trace, 1.0, 2.0) == 0.02


def test_the_watch_writes_down_from_when_to_when_the_lane_was_held(tmp_path: Path) -> None:
    place = LanePlace(tmp_path / "lane")
    source = Source(place, pool="embed", name="test", device="")
    try:
        with LaneWatch(place, "embed") as watch:
            assert watch.clear_for_s() > 0
            before = time.monotonic()
            source.hold("a request")
            raised = time.monotonic()
            assert watch.clear_for_s() == 0.0
            time.sleep(0.05)  # how long it holds, not what we wait for
            source.clear()
            cleared = time.monotonic()
            eventually(lambda: len(watch.holds) == 1)
            source.hold("another one, that is still on")
            time.sleep(0.05)
    finally:
        source.close()
    (begin, end), (_, last) = watch.holds
    assert before <= begin <= raised
    assert end >= cleared
    assert last <= time.monotonic()


def test_the_picture_puts_phases_side_by_side_on_one_axis() -> None:
    shown = Shown(killed=1, killed_at=205.0)
    shown.phases = [
        Phase("alone", 100.0, 110.0, [Answered(101.0, [101.2, 101.21])]),
        Phase("holdshort", 200.0, 210.0, [Answered(201.0, [201.5, 201.52]), Answered(209.0, [212.0, 212.1])]),
    ]
    shown.trace = [
        {"event": "ran", "at": 202.0, "seconds": 0.5},
        {"event": "lost", "at": 203.0, "seconds": 0.1},
        {"event": "ran", "at": 150.0, "seconds": 0.5},
    ]
    shown.holds = [(203.0, 204.0), (209.5, 215.0), (150.0, 151.0)]
    line = timeline(shown)
    alone, protected = line.strips
    assert (alone.start, alone.end) == (0.0, 10.0)
    assert alone.firsts == [(1.0, 0.2)]
    assert (protected.start, line.killed) == (12.0, 17.0)
    assert protected.firsts == [(13.0, 0.5), (21.0, 3.0)], "one that came after the phase is shown as well"
    assert protected.gaps == [(13.52, 0.02)]
    assert protected.batches == [(13.5, 0.5)]
    assert protected.lost == [(14.9, 0.1)]
    assert protected.holds == [(15.0, 16.0), (21.5, 22.0)]
    assert alone.batches == []
    assert line.alone_p95 == pytest.approx([0.2, 0.01])


def test_what_did_not_come_out_well_is_said() -> None:
    shown = Shown(documents=10, results=9, distinct=9, ok=9, left_at_end=0)
    late = Phase("unprotected", 0.0, 10.0, [Answered(9.0, [9.1, 12.0])])
    shown.phases = [Phase("alone", 0.0, 10.0, []), late, Phase("holdshort", 0.0, 10.0, [])]
    assert "NOT exactly once" in outcome(shown)[0]
    assert "NO worker could be killed" in outcome(shown)[0]
    assert any("no documents left" in line for line in summary(shown))
    assert any("1 of 1 unprotected answers were not whole" in line for line in summary(shown))
    assert cells(shown, late)[0] == "1 (1 late)"
    assert busy_warning({"load_1m": 1.9, "cores": 2})
    assert not busy_warning({"load_1m": 0.3, "cores": 2})


def test_nothing_that_is_shown_can_end_the_page_early(tmp_path: Path) -> None:
    shown = Shown(answers={"</dl><script>": [("</script><b>", 0.5)]})
    shown.phases = [
        Phase(name, 0.0, 10.0, [Answered(1.0, [1.1, 1.2])]) for name in ("alone", "unprotected", "holdshort")
    ]
    page.write(shown, {**machine(), "cpu": "</footer>&"}, tmp_path / "lane.html")
    text = (tmp_path / "lane.html").read_text()
    assert text.count("<script") == text.count("</script>") == 2
    assert "&lt;/footer&gt;&amp;" in text
    assert "@@" not in text


def test_a_picture_is_drawn_of_an_empty_run_too(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from holdshort.cli.demo.picture import draw

    shown = Shown(phases=[Phase(name, 0.0, 10.0, []) for name in ("alone", "unprotected", "holdshort")])
    draw(shown, machine(), tmp_path / "lane.png")
    page.write(shown, machine(), tmp_path / "lane.html")
    assert (tmp_path / "lane.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("load", "threads"), [(0.0, 2), (100_000.0, 1)])
def test_on_a_busy_machine_the_chatbot_takes_one_thread(
    monkeypatch: pytest.MonkeyPatch, load: float, threads: int
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
    described = machine()
    assert described["chat_threads"] == threads
    assert ("one thread" in busy_warning(described)) == (threads == 1)


@pytest.mark.slow
def test_the_demo_runs_and_writes_its_picture_and_page(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for module in ("onnxruntime", "xllamacpp", "uvicorn", "matplotlib"):
        pytest.importorskip(module)
    models = smollm2_folder(tmp_path_factory)
    ran = subprocess.run(
        [sys.executable, "-m", "holdshort.cli", "demo", "--seconds", "6", "--documents", "600", "--json",
         "--output", str(tmp_path / "out"), "--folder", str(tmp_path / "all")],
        env={**os.environ, "HOLDSHORT_MODELS": str(models)}, capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(ran.stdout)
    assert found["exactly_once"]
    assert found["killed"] > 0
    assert found["documents"] == found["results"] >= 600
    assert found["documents_left_when_the_phase_ended"] > 0, "the job never ran empty"
    assert list(found["phases"]) == ["alone", "unprotected", "holdshort"]
    assert all(phase["requests"] > 0 for phase in found["phases"].values())
    assert found["phases"]["alone"]["documents_per_s"] == 0
    assert found["phases"]["unprotected"]["documents_per_s"] > 0
    assert (tmp_path / "out/lane.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "out/lane.html").read_text()
    assert "@@" not in page
    assert not re.search(r"""(src|href)=|url\(|https?://""", page), "it needs nothing from anywhere"
    assert json.loads(re.findall(r'id="data">(.*?)</script>', page)[0])["strips"][2]["holds"]
    assert not _left_over(tmp_path), "no process outlives the demo"


@pytest.mark.slow
def test_nothing_outlives_a_demo_that_is_told_to_end(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    for module in ("onnxruntime", "xllamacpp", "uvicorn", "matplotlib"):
        pytest.importorskip(module)
    models = smollm2_folder(tmp_path_factory)
    with (tmp_path / "said").open("wb") as said:
        demo = subprocess.Popen(
            [sys.executable, "-m", "holdshort.cli", "demo", "--seconds", "5", "--documents", "120",
             "--output", str(tmp_path / "out"), "--folder", str(tmp_path / "all")],
            env={**os.environ, "HOLDSHORT_MODELS": str(models)}, stdout=said, stderr=said,
        )  # fmt: skip
    try:
        eventually(lambda: b"the indexing job alone" in (tmp_path / "said").read_bytes(), timeout=120)
        assert len(_left_over(tmp_path)) >= 3, "model server, `up` and a worker run now"
        demo.terminate()
        assert demo.wait(timeout=60) == 130
    finally:
        demo.kill()
        demo.wait()
    assert not _left_over(tmp_path)
    assert not (tmp_path / "out/lane.png").exists()


def _left_over(folder: Path) -> list[str]:
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
        except OSError:
            continue
        if f"{folder}/all/holdshort.toml".encode() in environment:
            found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found
