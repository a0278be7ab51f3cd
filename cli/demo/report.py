"""The demo's figures as a table and as JSON, with what they were measured on."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .figures import Figures, Phase, figures
from .show import BURST, IDLE_S, SEED, THREADS, TOKENS, Shown

TITLES = {"alone": "chat alone", "unprotected": "both, unprotected", "holdshort": "both, with Holdshort"}
_PACKAGES = ("holdshort", "xllamacpp", "onnxruntime", "uvicorn", "httptools")


def print_table(shown: Shown) -> None:
    """The table, on standard output."""
    from ..output import print_table as table

    columns = ("phase", "requests", "first token p50 / p95", "per token p50 / p95 / p99", "documents/s")
    table(columns, (_row(phase) for phase in shown.phases), empty="")


def summary(shown: Shown) -> list[str]:
    """What else there is to say, a line each."""
    verdict = "each document exactly once" if shown.exactly_once else "NOT exactly once"
    lines = [
        f"The job alone indexes {shown.alone_per_s:.1f} documents/s; the chat alone takes {shown.busy_share:.0%} of "
        f"the time. With Holdshort the job got {_share(shown.harvest)} of what the rest would give it.",
        f"{shown.results} results for {shown.documents} documents, {shown.distinct} distinct, {shown.ok} ok, in "
        f"{shown.shards} commits: {verdict}, though a worker was killed.",
    ]
    lines += [
        f"The killed worker's message was delivered again, and its stripe went on at shard {shard}."
        for shard in shown.went_on_at_shards
    ]
    for question, found in shown.answers.items():
        lines.append(f"“{question}”\n   {', '.join(f'{name} ({score:.2f})' for name, score in found)}")
    return lines


def machine() -> dict[str, Any]:
    """Where this ran, and with what."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_1m": round(os.getloadavg()[0], 2),
        "packages": {name: _version(name) for name in _PACKAGES},
        "models": "SmolLM2-135M-Instruct Q4_1; all-MiniLM-L6-v2 int8",
        "chat": f"{THREADS} threads, {TOKENS} tokens, bursts of {BURST}, {IDLE_S:g} s apart, seed {SEED}",
    }


def as_dict(shown: Shown, described: dict[str, Any]) -> dict[str, Any]:
    """Everything but the single tokens."""
    return {
        "machine": described,
        "documents": shown.documents,
        "phases": {phase.name: {"seconds": phase.seconds, **asdict(figures(phase))} for phase in shown.phases},
        "job_alone_documents_per_s": shown.alone_per_s,
        "chat_busy_share": shown.busy_share,
        "harvest": shown.harvest,
        "killed": shown.killed,
        "killed_in_shard": shown.killed_in_shard,
        "went_on_at_shards": shown.went_on_at_shards,
        "results": shown.results,
        "distinct": shown.distinct,
        "ok": shown.ok,
        "exactly_once": shown.exactly_once,
        "answers": shown.answers,
    }


def cells(found: Figures) -> tuple[str, str, str]:
    """First token, per token, and documents per second, for people."""
    return (
        f"{_ms(found.first_p50_s)} / {_ms(found.first_p95_s)} ms",
        f"{_ms(found.token_p50_s, 1)} / {_ms(found.token_p95_s, 1)} / {_ms(found.token_p99_s, 1)} ms",
        f"{found.documents_per_s:.1f}" if found.documents_per_s else "–",
    )


def _row(phase: Phase) -> tuple[str, ...]:
    found = figures(phase)
    requests = f"{found.requests}" + (f" ({found.failed} failed)" if found.failed else "")
    return TITLES[phase.name], requests, *cells(found)


def _ms(seconds: float | None, digits: int = 0) -> str:
    return "–" if seconds is None else f"{seconds * 1000:,.{digits}f}"


def _share(share: float | None) -> str:
    return "an unknown part" if share is None else f"{share:.0%}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
