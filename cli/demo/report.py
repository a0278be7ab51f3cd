"""The demo's figures as a table and as JSON, with what they were measured on."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .figures import Figures, Phase, figures, quantile
from .show import BURST, IDLE_S, SEED, THREADS, TOKENS, Shown

TITLES = {"alone": "chat alone", "unprotected": "both, unprotected", "holdshort": "both, with Holdshort"}
COLUMNS = (
    "phase",
    "requests",
    "first token p50 / p95",
    "per token p50 / p95 / p99",
    "p95 ÷ alone: first, per token",
    "documents/s",
)
_PACKAGES = ("holdshort", "xllamacpp", "onnxruntime", "uvicorn", "httptools", "httpx")
_BUSY_LOAD = 0.5
"""Load average per core from which on others are too busy for even figures."""


def print_table(shown: Shown) -> None:
    """The table, on standard output."""
    from ..output import print_table as table

    table(COLUMNS, rows(shown), empty="")


def rows(shown: Shown) -> list[tuple[str, ...]]:
    """The table: a row for each phase."""
    return [(TITLES[phase.name], *cells(shown, phase)) for phase in shown.phases]


def cells(shown: Shown, phase: Phase) -> tuple[str, ...]:
    """What there is of a phase in the columns after the first."""
    found, alone = figures(phase), figures(shown.phases[0])
    beside = f"{_ratio(found.first_p95_s, alone.first_p95_s)}, {_ratio(found.token_p95_s, alone.token_p95_s)}"
    return (
        _requests(found),
        f"{_ms(found.first_p50_s)} / {_ms(found.first_p95_s)} ms",
        f"{_ms(found.token_p50_s, 1)} / {_ms(found.token_p95_s, 1)} / {_ms(found.token_p99_s, 1)} ms",
        "–" if phase.name == "alone" else beside,
        f"{found.documents_per_s:.1f}" if found.documents_per_s else "–",
    )


def notes(phase: Phase) -> tuple[str, str, str]:
    """A phase in short lines, for beneath its title."""
    found = figures(phase)
    return (
        f"first token p95 {_ms(found.first_p95_s)} ms",
        f"per token p95 {_ms(found.token_p95_s, 1)} ms",
        f"{found.documents_per_s:.1f} documents/s" if found.documents_per_s else "no job",
    )


def headline(shown: Shown) -> str:
    """What came of it, in two sentences."""
    alone, unprotected, protected = (figures(phase) for phase in shown.phases)
    return (
        f"With the job unprotected beside it, the chatbot's first token came after {_ms(unprotected.first_p95_s)} ms "
        f"at p95, where it takes {_ms(alone.first_p95_s)} ms when the chat is alone; with Holdshort, "
        f"{_ms(protected.first_p95_s)} ms. "
        f"Later tokens: {_ms(unprotected.token_p95_s, 1)}, {_ms(alone.token_p95_s, 1)} and "
        f"{_ms(protected.token_p95_s, 1)} ms. Meanwhile the job indexed {protected.documents_per_s:.1f} documents/s: "
        f"{_share(shown.harvest)} of what the chat leaves room for."
    )


def summary(shown: Shown) -> list[str]:
    """What else there is to say of the phases, a line each."""
    lines = [
        f"The job alone indexes {shown.alone_per_s:.1f} documents/s; the chat alone takes {shown.busy_share:.0%} of "
        f"the time. With Holdshort the job got {_share(shown.harvest)} of what the rest would give it, the kill "
        f"included."
    ]
    if shown.left_at_end <= 0:
        lines.append("It had no documents left before the phase was over, and could have done more.")
    if shown.yields_s:
        lines.append(
            f"Holds that found the job at work: {len(shown.yields_s)}. It stood still after "
            f"{_ms(quantile(shown.yields_s, 0.5), 1)} ms (p50) and {_ms(quantile(shown.yields_s, 0.95), 1)} ms (p95); "
            f"{shown.lost_s:.1f} s of work were thrown away for that, and done again."
        )
    for phase in shown.phases:
        found = figures(phase)
        if found.late and phase.name == "unprotected":
            lines.append(
                f"{found.late} of {found.requests} unprotected answers were not whole when that phase ended. The job "
                f"was stopped then, so they fared better than they would have beside it."
            )
    return lines


def outcome(shown: Shown) -> list[str]:
    """What became of the documents, a line each."""
    verdict = "each document exactly once" if shown.exactly_once else "NOT exactly once"
    killed = (
        f"though a worker was killed in the middle of shard {shown.killed_in_shard}"
        if shown.killed
        else "but NO worker could be killed at work"
    )
    lines = [
        f"{shown.results} results for {shown.documents} documents, {shown.distinct} distinct, {shown.ok} ok, in "
        f"{shown.shards} commits: {verdict}, {killed}."
    ]
    lines += [
        f"The killed worker's message was delivered again, and its stripe went on at shard {shard}: "
        f"{shown.done_again} documents that it had not committed were computed once more."
        for shard in shown.went_on_at_shards
    ]
    return lines


def searches(shown: Shown) -> list[tuple[str, str]]:
    """Questions, and the best documents for each."""
    return [
        (question, ", ".join(f"{name} ({score:.2f})" for name, score in found))
        for question, found in shown.answers.items()
    ]


def measured_on(described: dict[str, Any]) -> list[str]:
    """Where, with what, and how; a line each."""
    versions = ", ".join(f"{name} {found}" for name, found in described["packages"].items() if found)
    return [
        f"{described['cpu']}, {described['cores']} cores, {described['system']}, Python {described['python']}; "
        f"load average before: {described['load_1m']:.2f}",
        f"{described['models']}; {described['chat']}",
        versions,
    ]


def busy_warning(described: dict[str, Any]) -> str:
    """What to say before it begins if others are at work here; else ""."""
    if not _is_busy(described["load_1m"], described["cores"]):
        return ""
    return (
        f"The machine is busy (load average {described['load_1m']:.2f} on {described['cores']} cores): the "
        f"figures, the chat's alone too, will be worse and less even than they could be. The chatbot takes "
        f"one thread, since several would wait for each other."
    )


def machine() -> dict[str, Any]:
    """Where this ran, and with what."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    cores, load_1m = len(os.sched_getaffinity(0)), round(os.getloadavg()[0], 2)
    threads = 1 if _is_busy(load_1m, cores) else THREADS
    return {
        "cpu": model,
        "cores": cores,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_1m": load_1m,
        "packages": versions(),
        "models": "SmolLM2-135M-Instruct Q4_1; all-MiniLM-L6-v2 int8",
        "chat_threads": threads,
        "chat": f"--threads {threads}, {TOKENS} tokens, bursts of {BURST}, {IDLE_S:g} s apart, seed {SEED}",
    }


def _is_busy(load_1m: float, cores: int) -> bool:
    return load_1m > _BUSY_LOAD * cores


def versions() -> dict[str, str | None]:
    """What the figures depend on most; None for what is not installed."""
    return {name: _version(name) for name in _PACKAGES}


def as_dict(shown: Shown, described: dict[str, Any]) -> dict[str, Any]:
    """Everything but the single tokens."""
    return {
        "machine": described,
        "documents": shown.documents,
        "phases": {phase.name: {"seconds": phase.seconds, **asdict(figures(phase))} for phase in shown.phases},
        "job_alone_documents_per_s": shown.alone_per_s,
        "chat_offered_share": shown.offered_share,
        "chat_busy_share": shown.busy_share,
        "harvest": shown.harvest,
        "documents_left_when_the_phase_ended": shown.left_at_end,
        "yields": len(shown.yields_s),
        "yield_p50_s": quantile(shown.yields_s, 0.5),
        "yield_p95_s": quantile(shown.yields_s, 0.95),
        "lost_s": shown.lost_s,
        "killed": shown.killed,
        "killed_in_shard": shown.killed_in_shard,
        "went_on_at_shards": shown.went_on_at_shards,
        "done_again": shown.done_again,
        "results": shown.results,
        "distinct": shown.distinct,
        "ok": shown.ok,
        "exactly_once": shown.exactly_once,
        "answers": shown.answers,
    }


def _requests(found: Figures) -> str:
    said = [f"{number} {what}" for number, what in ((found.failed, "failed"), (found.late, "late")) if number]
    return f"{found.requests} ({', '.join(said)})" if said else f"{found.requests}"


def _ratio(one: float | None, other: float | None) -> str:
    return f"{one / other:,.2f}×" if one is not None and other else "–"


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
