"""Commands on jobs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .exits import Exit

if TYPE_CHECKING:
    from ..jobs import Job, Settings, Status
    from ..jobs.explain import LaneHold

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
_PROBLEMS = 20
JobId = Annotated[str, typer.Argument(help="A job's id, or the beginning of it.", metavar="JOB")]


def submit(
    pool: Annotated[str, typer.Argument(help="The pool whose engine is to run the rows.")],
    input: Annotated[str, typer.Argument(help="A file, folder, glob or URL; - reads JSON Lines from standard input.")],  # noqa: A002
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end, showing progress.")] = False,
    priority: Annotated[str, typer.Option("--priority", "-p", help="bulk, standard, urgent, or 0 to 9.")] = "standard",
    deadline: Annotated[
        str | None,
        typer.Option("--deadline", "-d", help="After this, e.g. 2h, rows that are left expire.", show_default=False),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", help="NAME=VALUE for every row's body; may be repeated.", show_default=False),
    ] = None,
    max_parallelism: Annotated[int, typer.Option(help="How many workers may work on it at once.")] = 4,
    shard_rows: Annotated[int, typer.Option(help="Rows per commit.")] = 256,
    max_attempts: Annotated[int, typer.Option(help="Tries per row, for failures that may pass.")] = 3,
    key: Annotated[
        str | None,
        typer.Option("--key", help="Idempotency key: the same key is the same job.", show_default=False),
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="On whose behalf.", show_default=False)] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", "-m", help="NAME=VALUE; may be repeated.", show_default=False),
    ] = None,
    webhook: Annotated[str | None, typer.Option(help="URL to tell once the job has ended.", show_default=False)] = None,
    json: AsJson = False,
) -> None:
    """Submit rows to a pool; prints the job's id.

    Example: `holdshort submit embed docs/ --priority bulk --deadline 2h --wait`
    """
    from ..jobs import BatchInferenceJob, Client

    given: dict[str, Any] = {
        "pool": pool,
        "input": _standard_input() if input == "-" else input,
        "priority": int(priority) if priority.isdigit() else priority,
        "deadline": deadline,
        "params": {name: _value(text) for name, text in _pairs(param, "--param")},
        "max_parallelism": max_parallelism,
        "shard_rows": shard_rows,
        "max_attempts": max_attempts,
        "idempotency_key": key,
        "tenant": tenant,
        "metadata": dict(_pairs(metadata, "--metadata")),
        "webhook": webhook,
    }
    with Client() as client:
        job = client.submit(BatchInferenceJob(**given))
        follow(job, wait=wait, json=json)


def jobs(
    all: Annotated[bool, typer.Option("--all", "-a", help="Also those that have ended.")] = False,  # noqa: A002
    json: AsJson = False,
) -> None:
    """List the jobs that have not ended, or all of them.

    Example: `holdshort jobs --all --json | jq '.[] | select(.state == "failed")'`
    """
    from ..jobs import Client
    from .output import ago, print_json, print_table

    with Client() as client:
        found = sorted(client.jobs(active=not all), key=lambda status: status.accepted_at, reverse=True)
    if json:
        print_json([status.as_dict() for status in found])
        return
    columns = ("job", "pool", "state", "priority", "rows done", "failed", "accepted")
    rows = (
        (
            s.id,
            s.pool,
            s.state,
            str(s.priority),
            f"{s.done}/{s.rows}",
            str(s.counts.error),
            f"{ago(s.accepted_at)} ago",
        )
        for s in found
    )
    print_table(
        columns,
        rows,
        empty="No job." if all else "No job is waiting or running; --all shows those that ended.",
    )


def status(
    job: JobId,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end.")] = False,
    json: AsJson = False,
) -> None:
    """Show where a job stands. With --wait, exit code 5 says that not every row is ok.

    Example: `holdshort status 01k9m2x7 --wait`
    """
    from ..jobs import Client

    with Client() as client:
        found = client.job(job)
        if wait:
            follow(found, wait=True, json=json)
        else:
            show(found.status(), json=json)


def results(
    job: JobId,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write to this file; it appears once it is whole.", show_default=False),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for rows that are not done yet.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Only rows that are not ok.")] = False,
    json: AsJson = False,
) -> None:
    """Print a job's results as JSON Lines, in input order (with --json: as one JSON array).

    Example: `holdshort results 01k9m2x7 --follow -o results.jsonl`
    """
    from ..jobs import Client
    from .output import note

    with Client() as client:
        found = client.job(job)
        rows = (row.line for row in found.results(follow=follow) if not failed or row.outcome != "ok")
        lines = _as_array(rows) if json else (line + b"\n" for line in rows)
        if output is None:
            for line in lines:
                sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        else:
            _write_whole(output, lines)
        state = found.status()
        if not state.has_ended:
            note(f"job {found.id} is {state.state}: {state.done} of {state.rows} rows; --follow waits for the rest")


def why(job: JobId, json: AsJson = False) -> None:
    """Say in one sentence why a job is not running, or what it does.

    Example: `holdshort why 01k9m2x7`
    """
    from ..jobs import Client
    from .output import print_json, say

    with Client() as client:
        found = client.job(job)
        answer = client.why(found.id, lane=_hold_here(client.settings, found.record.pool))
        print_json({"id": found.id, "why": answer}) if json else say(answer)


def _hold_here(settings: Settings, pool: str) -> LaneHold | None:
    """What the lane of a pool says on this host, fresher than any heartbeat; None if nothing holds here."""
    import time

    from ..jobs.explain import LaneHold
    from ..workers.lane.place import LanePlace
    from ..workers.lane.reader import LaneReader

    if pool not in settings.pools:
        return None
    timeout_s = settings.pool(pool).signal_loss_timeout_s
    reader = LaneReader(LanePlace.of(settings), pool, signal_loss_timeout_s=timeout_s, on_lost=lambda name: None)
    reading = reader.reading()
    if reading.signal == "clear":
        return None
    return LaneHold(reading.source, reading.reason, time.monotonic() - reading.since)


def cancel(
    job: JobId,
    reason: Annotated[str, typer.Option(help="Why, for those who look at it later.")] = "",
    json: AsJson = False,
) -> None:
    """Cancel a job: rows that are done stay, the others end as cancelled.

    Example: `holdshort cancel 01k9m2x7 --reason "wrong folder"`
    """
    _steer(job, "cancelled", lambda found: found.cancel(reason), json=json)


def pause(job: JobId, json: AsJson = False) -> None:
    """Let a job rest after what is in hand, until `resume`.

    Example: `holdshort pause 01k9m2x7`
    """
    _steer(job, "paused", lambda found: found.pause(), json=json)


def resume(job: JobId, json: AsJson = False) -> None:
    """Let a paused job go on.

    Example: `holdshort resume 01k9m2x7`
    """
    _steer(job, "resumed", lambda found: found.resume(), json=json)


def retry(
    job: JobId,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end, showing progress.")] = False,
    json: AsJson = False,
) -> None:
    """Submit the rows of an ended job that are not ok, as a new job.

    Example: `holdshort retry 01k9m2x7 --wait`
    """
    from ..jobs import Client

    with Client() as client:
        follow(client.retry(client.job(job).id), wait=wait, json=json)


def recover(json: AsJson = False) -> None:
    """Publish the messages of all active jobs again, e.g. after the broker lost its data.

    No finished shard is run again. Example: `holdshort recover`
    """
    from ..jobs import Client
    from .output import print_json, say

    with Client() as client:
        found = client.recover()
    if json:
        print_json(found)
        return
    for job_id in found:
        say(job_id)


# -- shared ----------------------------------------------------------------------------------------------


def follow(job: Job, *, wait: bool, json: bool) -> None:
    """Print a job that was just submitted; with `wait`, show its progress and then its end."""
    from .output import note, print_json, say

    if not wait:
        print_json(job.status().as_dict()) if json else say(job.id)
        return
    try:
        if not json:
            say(job.id)
        ended = job.wait(progress=True)
    except KeyboardInterrupt:
        note(
            f"job {job.id} runs on; `holdshort status {job.id} --wait` watches it, `holdshort cancel {job.id}` ends it"
        )
        raise
    show(ended, json=json)


def show(status: Status, *, json: bool) -> None:
    """Print a status; exits with NOT_ALL_OK for a job that ended otherwise."""
    import time

    from ..jobs.progress import done_of
    from .output import ago, print_json, say, span

    if json:
        print_json(status.as_dict())
    else:
        counts = ", ".join(f"{number} {name}" for name, number in status.counts.as_dict().items() if number)
        say(f"{status.id}  {status.state}  {done_of(status)}" + (f": {counts}" if counts else ""))
        say(f"  pool {status.pool}, priority {status.priority}, accepted {ago(status.accepted_at)} ago")
        if status.ended_at is not None:
            say(f"  took {span(status.ended_at - status.accepted_at)}")
        elif status.deadline_at is not None:
            left = status.deadline_at - time.time()
            say(f"  deadline in {span(left)}" if left > 0 else f"  its deadline passed {span(-left)} ago")
        if status.reason:
            say(f"  {status.reason}")
    if status.has_ended and not status.all_ok:
        raise typer.Exit(Exit.NOT_ALL_OK)


def _steer(job: str, done: str, act: Callable[[Job], bool], *, json: bool) -> None:
    from ..jobs import Client
    from .output import note, print_json

    with Client() as client:
        found = client.job(job)
        changed = act(found)
        state = found.status()
    if json:
        print_json({**state.as_dict(), "changed": changed})
    else:
        note(f"job {found.id}: {done}" if changed else f"job {found.id}: nothing to do, it is {state.state}")


def _pairs(given: list[str] | None, option: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for text in given or []:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=option)
        pairs.append((name, value))
    return pairs


def _value(text: str) -> Any:
    """JSON where it is JSON (true, 3, [1]), else the text itself."""
    import orjson

    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _standard_input() -> Any:
    import orjson

    from ..jobs.input import Problem, RefusedInput

    problems: list[Problem] = []
    for number, line in enumerate(sys.stdin.buffer, start=1):
        if not line.strip():
            continue
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError as error:
            where, what = f"standard input, line {number}", f"is not JSON ({error})."
            problems.append(Problem(where, "bad_json", what, "Write one JSON object per line."))
            if len(problems) == _PROBLEMS:
                raise RefusedInput(tuple(problems), complete=False) from error
    if problems:
        raise RefusedInput(tuple(problems))


def _write_whole(path: Path, parts: Iterable[bytes]) -> None:
    """A file that is there once it is whole. What the parts raise passes as it is, and leaves nothing."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        file = partial.open("wb")
    except OSError as error:
        raise typer.BadParameter(f"{path} can't be written: {error.strerror}", param_hint="--output") from error
    try:
        with file:
            file.writelines(parts)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _as_array(lines: Any) -> Any:
    first = True
    for line in lines:
        yield (b"[" if first else b",\n") + line
        first = False
    yield b"[]\n" if first else b"]\n"
