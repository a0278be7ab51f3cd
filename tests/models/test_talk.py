"""Answers of servers that do not all behave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from holdshort.storage.errors import ModelUnavailable
from holdshort.workers.models.talk import Answer, Message, Talk
from support.commands import PROGRAM, Commands
from support.ports import free_port

HELLO: list[Message] = [{"role": "user", "content": "hello"}]


def _delta(**delta: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}, ensure_ascii=False).encode() + b"\n\n"


END = (
    b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
    b'data: {"choices": [], "usage": {"completion_tokens": 5}}\n\ndata: [DONE]\n\n'
)


@dataclass
class Scripted:
    """An OpenAI server with one answer.

    Attributes:
        holds: how many requests are left waiting for ever after the chunks, as if more were to come.
    """

    chunks: list[bytes]
    status: int = 200
    url: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    holds: int = 0
    over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def _serving(script: Scripted) -> Iterator[Scripted]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, [b'{"object": "list", "data": [{"id": "the-model"}]}'])

        def do_POST(self) -> None:
            script.seen.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            script.keys.append(self.headers.get("authorization"))
            self._send(script.status, script.chunks)
            if script.holds >= len(script.seen):
                script.over.wait()

        def _send(self, status: int, chunks: list[bytes]) -> None:
            self.send_response(status)
            self.end_headers()
            for chunk in chunks:
                self.wfile.write(chunk)
                self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield script
    finally:
        script.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _ask(script: Scripted) -> tuple[list[str], Answer]:
    answer = Answer()
    with _serving(script), Talk(script.url, api_key="k") as talk:
        return list(talk.ask(HELLO, answer, max_tokens=7)), answer


def test_an_answer_comes_piece_by_piece_with_the_server_s_count() -> None:
    text = _delta(role="assistant", content="") + _delta(content="Guten ") + b": ping\n\n" + _delta(content="Tag 東")
    script = Scripted([text[:-9], text[-9:], END])
    pieces, answer = _ask(script)
    assert pieces == ["Guten ", "Tag 東"]
    assert (answer.text, answer.tokens, answer.finish_reason) == ("Guten Tag 東", 5, "stop")
    assert answer.first_token_s is not None
    assert answer.per_token_s is not None
    assert script.seen == [
        {
            "model": "the-model",
            "messages": HELLO,
            "max_tokens": 7,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    assert script.keys == ["Bearer k"]


def test_without_a_count_pieces_are_counted() -> None:
    end = b'data: {"choices": [{"delta": {}, "finish_reason": "length"}]}\n\n'
    _, answer = _ask(Scripted([_delta(content="a"), _delta(content="b"), end]))
    assert (answer.tokens, answer.finish_reason) == (2, "length")


def test_an_answer_that_breaks_off_is_no_answer() -> None:
    with pytest.raises(ModelUnavailable, match="before it was finished"):
        _ask(Scripted([_delta(content="a")]))


@pytest.mark.parametrize(
    ("chunks", "told"),
    [
        ([_delta(content="a"), b'data: {"error": {"message": "out of memory"}}\n\n'], "broke off: out of memory"),
        ([b"data: what?\n\n"], r"it sent: what\?"),
        ([b"data: [1]\n\n"], "does not stream chat completions"),
        ([b'data: {"choices": [3]}\n\n'], "does not stream chat completions"),
    ],
)
def test_what_is_no_answer_is_told(chunks: list[bytes], told: str) -> None:
    with pytest.raises(ModelUnavailable, match=told):
        _ask(Scripted(chunks))


def test_a_refusal_is_told_with_the_server_s_reason() -> None:
    with pytest.raises(ModelUnavailable, match=r"HTTP 400\): too long"):
        _ask(Scripted([b'{"error": {"message": "too long"}}'], status=400))
    with pytest.raises(ModelUnavailable, match=r"HTTP 502\): <h1>Bad gateway"):
        _ask(Scripted([b"<h1>Bad gateway</h1>"], status=502))


def test_the_command_sends_the_key_of_the_environment_and_never_shows_it(tmp_path: Path) -> None:
    run = Commands(tmp_path, None)
    with _serving(Scripted([b'{"error": {"message": "who?"}}'], status=401)) as script:
        ran = run("chat", "hello", "--url", script.url, code=6, HOLDSHORT_API_KEY="secret-key")
    assert script.keys == ["Bearer secret-key"]
    assert "HOLDSHORT_API_KEY" in ran.err
    assert "secret-key" not in ran.err


def test_ctrl_c_stops_the_answer_but_not_the_conversation(tmp_path: Path) -> None:
    run = Commands(tmp_path, None)
    with _serving(Scripted([_delta(content="one")], holds=1)) as script:
        process = subprocess.Popen(
            [*PROGRAM, "chat", "--url", script.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=run.environment,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"Count.\n")
        process.stdin.flush()
        assert os.read(process.stdout.fileno(), 3) == b"one"
        script.chunks = [_delta(content="yes"), END]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(b"Go on.\n", timeout=30)
    assert (process.returncode, out) == (0, b"\nyes\n")
    stopped, answered = err.decode().splitlines()
    assert "stopped" in stopped
    assert "5 tokens" in answered
    # What came of the stopped answer is part of the conversation.
    assert [message["content"] for message in script.seen[1]["messages"]] == ["Count.", "one", "Go on."]


def test_ctrl_c_on_the_only_answer_ends_with_130(tmp_path: Path) -> None:
    with _serving(Scripted([_delta(content="one")], holds=1)) as script:
        process = Commands(tmp_path, None).start("chat", "Count.", "--url", script.url)
        assert process.stdout is not None
        assert process.stdout.read(3) == "one"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "\n")
    assert "stopped" in err


def test_a_model_s_words_do_not_steer_the_terminal(tmp_path: Path) -> None:
    with _serving(Scripted([_delta(content="a\x1b[2Jb\tc\nd"), END])) as script:
        ran = Commands(tmp_path, None)("chat", "hello", "--url", script.url)
    assert ran.out == "a[2Jb\tc\nd\n"


def test_nobody_there_is_told_with_the_commands_that_help(tmp_path: Path) -> None:
    run = Commands(tmp_path, None)
    gateway = f'{{"upstream": "http://127.0.0.1:1", "host": "0.0.0.0", "port": {free_port()}}}'
    ran = run("chat", "hello", code=6, HOLDSHORT_GATEWAY=gateway)
    assert "Nothing answers at http://127.0.0.1:" in ran.err
    assert "holdshort models serve smollm2" in ran.err
    assert "holdshort gateway" in ran.err
