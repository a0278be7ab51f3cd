"""The real model behind its real server, and the commands around it."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from support.commands import Commands
from support.models import ModelServer, smollm2_folder
from support.waiting import eventually

pytestmark = pytest.mark.slow
ENDLESS = {
    "messages": [{"role": "user", "content": "Tell a story."}],
    "max_tokens": 1500,
    "ignore_eos": True,
    "stream": True,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smollm2_folder(tmp_path_factory)


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ModelServer]:
    with ModelServer(models, "--threads", "1", "--parallel", "2") as found:
        yield found


@pytest.fixture
def run(tmp_path: Path) -> Commands:
    return Commands(tmp_path, None)


def test_a_pulled_model_is_listed_has_a_path_and_is_not_pulled_again(run: Commands, models: Path) -> None:
    there = {"HOLDSHORT_MODELS": str(models)}
    pulled = run("models", "pull", "smollm2", "--verify", "--json", **there).json
    assert pulled["already_there"]
    path = Path(run("models", "path", "smollm2", **there).out.strip())
    assert hashlib.sha256(path.read_bytes()).hexdigest() == pulled["sha256"]
    (listed,) = run("models", "list", "--json", **there).json
    assert (listed["name"], listed["path"]) == ("smollm2", str(path))
    assert str(path) in run("models", "list", "--folder", str(models)).out


def test_a_model_that_is_not_here_or_unknown_is_told(run: Commands, tmp_path: Path) -> None:
    for command in ("path", "serve"):
        ran = run("models", command, "smollm2", code=6, HOLDSHORT_MODELS=str(tmp_path))
        assert "holdshort models pull smollm2" in ran.err
    assert "did you mean 'smollm2'" in run("models", "pull", "smolm2", code=4).err


def test_without_the_runtime_the_extra_is_named(run: Commands, models: Path, tmp_path: Path) -> None:
    missing = "raise ModuleNotFoundError(\"No module named 'xllamacpp'\", name='xllamacpp')"
    (tmp_path / "xllamacpp.py").write_text(missing)
    ran = run("models", "serve", "smollm2", code=7, PYTHONPATH=str(tmp_path), HOLDSHORT_MODELS=str(models))
    assert "pip install 'holdshort[chat]'" in ran.err


def test_a_port_that_is_taken_is_told(run: Commands, models: Path, server: ModelServer) -> None:
    port = server.url.rpartition(":")[2]
    ran = run("models", "serve", "smollm2", "--port", port, code=7, HOLDSHORT_MODELS=str(models))
    assert f"127.0.0.1, port {port}: Address already in use" in ran.err


def test_the_server_speaks_openai_on_loopback_under_its_own_name_and_shows_no_page(server: ModelServer) -> None:
    (model,) = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert model["id"] == "smollm2"
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    assert "llamacpp:requests_processing" in httpx.get(f"{server.url}/metrics").text
    for hidden in ("/", "/index.html", "/slots"):
        assert httpx.get(server.url + hidden).status_code in (404, 501), hidden
    foreign = httpx.get(f"{server.url}/v1/models", headers={"origin": "http://elsewhere.example"})
    assert not foreign.headers.get("access-control-allow-origin")
    listening = [c for c in psutil.Process(server.pid).net_connections() if c.status == psutil.CONN_LISTEN]
    assert [c.laddr.ip for c in listening] == ["127.0.0.1"]


def test_a_server_that_has_nothing_to_do_does_nothing(server: ModelServer) -> None:
    httpx.get(f"{server.url}/health")
    process = psutil.Process(server.pid)
    before = process.cpu_times()
    time.sleep(1.0)
    after = process.cpu_times()
    assert after.user + after.system - before.user - before.system < 0.1


def test_one_question_gets_an_answer_with_its_times(run: Commands, server: ModelServer) -> None:
    asked = ("chat", "What is a queue?", "--url", server.url, "--max-tokens", "12")
    ran = run(*asked, "--json")
    told = ran.json
    assert told["model"] == "smollm2"
    assert len(told["answer"]) > 10
    assert (told["tokens"], told["finish_reason"]) == (12, "length")
    assert told["first_token_ms"] > 0
    assert told["ms_per_token"] > 0
    ran = run(*asked)
    assert len(ran.out) > 10
    assert "first token" in ran.err
    assert "12 tokens" in ran.err
    assert "ms per token" in ran.err


def test_a_conversation_goes_on_until_the_input_ends(run: Commands, server: ModelServer) -> None:
    lines = "My name is Ada.\n\nWhat is my name?\n/new\nSay yes.\n"
    ran = run("chat", "--url", server.url, "--max-tokens", "8", "--json", stdin=lines)
    answers = [json.loads(line) for line in ran.out.splitlines()]
    assert len(answers) == 3
    assert all(answer["tokens"] > 0 for answer in answers)


def test_a_question_that_is_too_long_does_not_end_the_conversation(run: Commands, server: ModelServer) -> None:
    lines = f"{'tree ' * 3000}\nSay yes.\n"
    ran = run("chat", "--url", server.url, "--max-tokens", "4", "--json", stdin=lines)
    assert "exceeds the available context size" in ran.err
    assert len(ran.out.splitlines()) == 1


def test_a_client_that_leaves_a_stream_stops_the_work_on_it(server: ModelServer) -> None:
    with httpx.Client() as client:
        with client.stream("POST", f"{server.url}/v1/chat/completions", json=ENDLESS) as response:
            pieces = response.iter_raw()  # kept: without it the stream would be closed
            next(pieces)
            eventually(lambda: _requests(server) == 1, timeout=5, what="the server computes")
        eventually(lambda: _requests(server) == 0, timeout=5, what="the server stops computing")


def _requests(server: ModelServer) -> int:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    (line,) = (line for line in lines if line.startswith("llamacpp:requests_processing "))
    return int(line.split()[1])


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, None], ids=["SIGTERM", "SIGINT", "parent gone"])
def test_it_ends_at_once_also_in_the_middle_of_an_answer(models: Path, how: signal.Signals | None) -> None:
    with ModelServer(models) as server, httpx.Client() as client:
        with client.stream("POST", f"{server.url}/v1/chat/completions", json=ENDLESS) as response:
            pieces = response.iter_raw()  # kept: without it the stream would be closed
            next(pieces)
            begin = time.monotonic()
            if how is None:
                assert server.process.stdin is not None
                server.process.stdin.close()
            else:
                server.process.send_signal(how)
            assert server.process.wait(timeout=20) == 0
            assert time.monotonic() - begin < 5
        with pytest.raises(httpx.ConnectError):
            client.get(f"{server.url}/health")
