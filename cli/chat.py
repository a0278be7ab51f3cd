"""`holdshort chat`: a conversation in the terminal, and how quick its answers came."""

from __future__ import annotations

import os
import re
import sys
from contextlib import closing, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer

from ..storage.errors import ModelUnavailable
from .exits import Exit
from .output import note

if TYPE_CHECKING:
    from ..workers.models.talk import Answer, Message, Talk

DEFAULT_URL = "http://127.0.0.1:8080"
KEY = "HOLDSHORT_API_KEY"
_NEW = "/new"
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Nothing that a model writes may steer the terminal."""


def chat(
    prompt: Annotated[
        str | None,
        typer.Argument(help="One question; without it, a conversation.", metavar="[PROMPT]", show_default=False),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help=f"The server to talk to; without it the configured gateway, or {DEFAULT_URL}.", show_default=False
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(help="What the model is told beforehand.", show_default=False)] = None,
    model: Annotated[
        str | None, typer.Option(help="As the server calls it; without it, its first one.", show_default=False)
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="The longest answer.", min=1)] = 512,
    json: Annotated[bool, typer.Option("--json", help="Print one line of JSON per answer instead of text.")] = False,
) -> None:
    """Talk to the live model: streams its answers, and shows how quick they were.

    Ctrl-C stops an answer, Ctrl-D leaves. A key that the server wants is read from HOLDSHORT_API_KEY.

    Example: `holdshort chat "What is a queue?"`
    """
    from ..workers.models.talk import Talk

    address = url or _configured_url()
    with Talk(address, api_key=os.environ.get(KEY) or None, model=model) as talk:
        talking = _Talking(talk, system, max_tokens, json=json)
        try:
            talk.model()
        except ModelUnavailable as error:
            raise ModelUnavailable(f"{error}{_how_to_start()}") from error
        if prompt is not None:
            raise typer.Exit(talking.once(prompt))
        talking.on_and_on()


def _configured_url() -> str:
    """The gateway's, as the configuration has it."""
    from ..jobs import Settings

    gateway = Settings.load().gateway
    if gateway is None or not gateway.port:
        return DEFAULT_URL
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(gateway.host, gateway.host)  # noqa: S104 - where to call, not to listen
    return f"http://[{host}]:{gateway.port}" if ":" in host else f"http://{host}:{gateway.port}"


def _how_to_start() -> str:
    return (
        "\nStart the model with:             holdshort models pull smollm2 && holdshort models serve smollm2"
        "\nand the gateway in front of it:   holdshort gateway"
        "\nor talk to the model itself:      holdshort chat --url http://127.0.0.1:8000"
    )


class _Talking:
    """Questions in, answers out."""

    def __init__(self, talk: Talk, system: str | None, max_tokens: int, *, json: bool) -> None:
        self._talk = talk
        self._system = system
        self._max_tokens = max_tokens
        self._json = json
        self._said: list[Message] = []
        self._begin_anew()

    def once(self, prompt: str) -> Exit:
        """One question. Raises ModelUnavailable."""
        answer, was_stopped = self._answer(prompt)
        self._show(answer, was_stopped)
        return Exit.INTERRUPTED if was_stopped else Exit.OK

    def on_and_on(self) -> None:
        """Until Ctrl-D. What goes wrong with one question does not end the conversation."""
        is_terminal = sys.stdin.isatty()
        if is_terminal:
            with suppress(ImportError):
                import_module("readline")  # gives input() its line editing
            note(
                f"{self._talk.model()} at {self._talk.url}. Ctrl-C stops an answer, {_NEW} begins anew, Ctrl-D leaves."
            )
        while True:
            try:
                line = (input("> ") if is_terminal else input()).strip()
            except EOFError:
                if is_terminal:
                    note("")
                return
            except KeyboardInterrupt:
                if not is_terminal:
                    raise
                note("\nCtrl-D leaves")
                continue
            if line == _NEW:
                self._begin_anew()
            elif line:
                self._turn(line)

    def _turn(self, line: str) -> None:
        try:
            answer, was_stopped = self._answer(line)
        except ModelUnavailable as error:
            del self._said[-1:]
            note(f"\n{error}\n{_NEW} begins anew.")
            return
        self._show(answer, was_stopped)

    def _begin_anew(self) -> None:
        self._said = [{"role": "system", "content": self._system}] if self._system else []

    def _answer(self, prompt: str) -> tuple[Answer, bool]:
        """The answer, and whether Ctrl-C cut it short; what came until then is part of the conversation."""
        from ..workers.models.talk import Answer

        answer, was_stopped = Answer(), False
        self._said.append({"role": "user", "content": prompt})
        try:
            with closing(self._talk.ask(self._said, answer, max_tokens=self._max_tokens)) as pieces:
                for piece in pieces:
                    if not self._json:
                        sys.stdout.write(_CONTROLS.sub("", piece))
                        sys.stdout.flush()
        except KeyboardInterrupt:
            was_stopped = True
        if not self._json:
            sys.stdout.write("\n")
            sys.stdout.flush()
        self._said.append({"role": "assistant", "content": answer.text})
        return answer, was_stopped

    def _show(self, answer: Answer, was_stopped: bool) -> None:
        first_ms = None if answer.first_token_s is None else round(answer.first_token_s * 1000, 1)
        per_ms = None if answer.per_token_s is None else round(answer.per_token_s * 1000, 2)
        if self._json:
            import orjson

            from .output import say

            told = {
                "model": self._talk.model(),
                "answer": answer.text,
                "finish_reason": "stopped" if was_stopped else answer.finish_reason,
                "tokens": answer.tokens,
                "first_token_ms": first_ms,
                "ms_per_token": per_ms,
            }
            say(orjson.dumps(told).decode())
            return
        figures = [
            *(["stopped"] if was_stopped else []),
            *(["cut at --max-tokens"] if answer.finish_reason == "length" else []),
            "no text" if first_ms is None else f"first token {first_ms:.0f} ms",
            f"{answer.tokens} tokens",
            *([] if per_ms is None else [f"{per_ms:.1f} ms per token"]),
        ]
        note(f"[{' · '.join(figures)}]")
