"""Where everything of a job lies in the store. No other module knows.

active/<pool>/<id>                       an index: jobs that have not ended
outbox/<id>                              jobs whose messages may not have been published
webhooks/<id>                            ended jobs whose webhook has not been told
jobs/<id>/job.json                       what was accepted; its creation is the acceptance
jobs/<id>/input/<upload>/<shard>         input lines, one object per shard
jobs/<id>/turns/<stripe>.<turn>.<delivery>
jobs/<id>/attempts/<shard>.<n>           what was running when a process died
jobs/<id>/partial/<shard>.<turn>.<delivery>.<n>   finished rows of a shard that was parked
jobs/<id>/shards/<shard>                 results: the commit of a shard
jobs/<id>/uploads/<file>                 a file in parts that a checkpoint job has begun: where, and its token
jobs/<id>/uploads/place                  which folder a restore was begun in
jobs/<id>/uploads/settled                what came of a checkpoint job, before its outcome is written
jobs/<id>/cancel                         somebody asked for it
jobs/<id>/pause.<n>                      odd: paused, even: resumed; the highest counts
jobs/<id>/outcome.json                   how it ended
jobs/<id>/webhook/<n>                    each delivery of the webhook that was tried
workers/<pool>/<worker>                  heartbeats
holds/<pool>                             an operator's hold
leader/<n>                               leases of the controller
"""

from __future__ import annotations

ACTIVE = "active"
OUTBOX = "outbox"
WEBHOOKS = "webhooks"
JOBS = "jobs"
SHARD_SUFFIX = ".jsonl.zst"


def job(job_id: str) -> str:
    return f"{JOBS}/{job_id}"


def record(job_id: str) -> str:
    return f"{JOBS}/{job_id}/job.json"


def active(pool: str, job_id: str) -> str:
    return f"{ACTIVE}/{pool}/{job_id}"


def outbox(job_id: str) -> str:
    return f"{OUTBOX}/{job_id}"


def webhook_due(job_id: str) -> str:
    return f"{WEBHOOKS}/{job_id}"


def inputs(job_id: str) -> str:
    return f"{JOBS}/{job_id}/input"


def input_shard(job_id: str, upload: str, shard: int) -> str:
    return f"{JOBS}/{job_id}/input/{upload}/{shard:08d}{SHARD_SUFFIX}"


def turns(job_id: str) -> str:
    return f"{JOBS}/{job_id}/turns"


def turn(job_id: str, stripe: int, number: int, delivery: int) -> str:
    return f"{JOBS}/{job_id}/turns/{stripe:04d}.{number:08d}.{delivery:04d}"


def parse_turn(name: str) -> tuple[int, int, int]:
    """(stripe, number, delivery) of a turn's name."""
    stripe, number, delivery = name.split(".")
    return int(stripe), int(number), int(delivery)


def shards(job_id: str) -> str:
    return f"{JOBS}/{job_id}/shards"


def shard(job_id: str, index: int) -> str:
    return f"{JOBS}/{job_id}/shards/{index:08d}{SHARD_SUFFIX}"


def parse_shard(name: str) -> int:
    return int(name.removesuffix(SHARD_SUFFIX))


def attempts(job_id: str) -> str:
    return f"{JOBS}/{job_id}/attempts"


def attempt(job_id: str, shard: int, number: int) -> str:
    return f"{JOBS}/{job_id}/attempts/{shard:08d}.{number:04d}"


def partials(job_id: str) -> str:
    return f"{JOBS}/{job_id}/partial"


def partial(job_id: str, shard: int, number: int, delivery: int, count: int) -> str:
    return f"{JOBS}/{job_id}/partial/{shard:08d}.{number:08d}.{delivery:04d}.{count:04d}"


def of_shard(names: list[str], shard: int) -> list[str]:
    """Of names that start with a shard's index, those of one shard, in order."""
    return [name for name in names if name.startswith(f"{shard:08d}.")]


def uploads(job_id: str) -> str:
    return f"{JOBS}/{job_id}/uploads"


def upload(job_id: str, file: int) -> str:
    return f"{JOBS}/{job_id}/uploads/{file:08d}"


def cancel(job_id: str) -> str:
    return f"{JOBS}/{job_id}/cancel"


def pause(job_id: str, number: int) -> str:
    return f"{JOBS}/{job_id}/pause.{number}"


def outcome(job_id: str) -> str:
    return f"{JOBS}/{job_id}/outcome.json"


def deliveries(job_id: str) -> str:
    return f"{JOBS}/{job_id}/webhook"


def delivery(job_id: str, number: int) -> str:
    return f"{JOBS}/{job_id}/webhook/{number:04d}"


def workers(pool: str) -> str:
    return f"workers/{pool}"


def worker(pool: str, worker_id: str) -> str:
    return f"workers/{pool}/{worker_id}"


def hold(pool: str) -> str:
    return f"holds/{pool}"


def leases() -> str:
    return "leader"


def lease(number: int) -> str:
    return f"leader/{number:012d}"
