"""Each action of a checkpoint job, from end to end: in a folder, on S3, and where nothing can be written in parts."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from holdshort.jobs import Client, RefusedJob, Settings
from holdshort.jobs.spec import CheckpointJob
from holdshort.jobs.status import StatusReader
from holdshort.storage import checkpoints
from holdshort.storage.checkpoints.manifest import manifest_path, read_manifest, steps, verify
from holdshort.storage.errors import IdempotencyConflict, ObjectNotFound
from holdshort.storage.opening import open_store
from holdshort.storage.store import Store
from support.brokers import EmbeddedBroker
from support.checkpoints import MIB, SLICE, House, content, folder_of, noise
from support.commands import Commands
from support.holdshort import settings_for

FILES = {
    ".metadata": b"plan", "weights/0.bin": noise(20 * MIB + 17), "weights/deep/ü 1.bin": b"x", "empty": b"",
    "just.bin": noise(SLICE, 2),
}  # fmt: skip


@pytest.fixture(params=["local", "s3", "memory"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> House:
    match request.param:
        case "local":
            return House(open_store(str(tmp_path / "store")))
        case "s3":
            server = request.getfixturevalue("s3_server")
            return House(open_store(request.getfixturevalue("s3_url"), storage_options=server.options))
        case _:
            return House(open_store(f"memory://{tmp_path.name}-actions"))


@pytest.fixture
def local(tmp_path: Path) -> House:
    return House(open_store(str(tmp_path / "store")))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "source", FILES)


def test_what_is_saved_is_verified_restored_and_the_same(house: House, source: Path, tmp_path: Path) -> None:
    record = house.saved(source, 100)
    assert house.contents(100) == FILES
    manifest = read_manifest(house.store, "run", 100)
    assert manifest.attempt == record.id
    assert {problem for _, problem in verify(house.store, manifest)} == {""}
    slices = [row.custom_id for row in house.results(record) if row.custom_id.startswith("weights/0.bin")]
    in_parts = house.store.parted is not None
    assert slices == [f"weights/0.bin//{n}" for n in range(3)] if in_parts else ["weights/0.bin"]
    if in_parts:
        assert house.unfinished() == []

    assert house.run(action="verify").state == "completed"
    restored = house.submit(action="restore", to=str(tmp_path / "out" / "here"))
    assert restored.spec["to"] == str(tmp_path / "out" / "here")
    house.drain()
    assert house.outcome(restored).state == "completed"
    assert content(tmp_path / "out" / "here") == FILES
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["here"], "nothing is left beside it"


def test_a_status_is_in_bytes(local: House, source: Path, tmp_path: Path) -> None:
    record = local.submit(source=str(source), step=1, max_parallelism=1)
    status = StatusReader(local.ledger, record).read()
    total = sum(len(data) for data in FILES.values())
    assert (status.bytes_done, status.bytes_total) == (0, total)
    runner = local.runner(quantum_s=1e-6)
    seen: list[int] = []
    while local.queue:
        runner.advance(local.queue.popleft(), redelivered=False)
        seen.append(StatusReader(local.ledger, record).read().bytes_done or 0)
    assert seen[-1] == total
    assert seen == sorted(seen)
    assert len(set(seen)) >= 3, "it grows from slice to slice"
    assert any(0 < done < total for done in seen)


def test_verify_says_what_is_wrong_with_which_file(local: House, source: Path) -> None:
    local.saved(source, 100)
    local.saved(source, 200)
    local.flip(100, "weights/0.bin")  # three slices: only their sums together tell
    local.flip(100, "just.bin")  # one
    local.store.delete(local.at(200, ".metadata"))
    record = local.submit(action="verify")
    local.drain()
    outcome = local.outcome(record)
    assert outcome.state == "failed"
    assert "3 of 10 files are not whole" in outcome.reason
    assert "100/weights/0.bin: has CRC32C" in outcome.reason
    errors = {row.custom_id: row.error["code"] for row in local.results(record) if row.error}
    assert errors == {"100/just.bin": "corrupt", "200/.metadata": "missing"}
    assert local.run(action="verify", step=200).state == "failed"
    local.store.delete(local.at(100, "weights/deep/ü 1.bin"))
    assert "4 of 10" in local.run(action="verify", step="all").reason


@pytest.mark.parametrize("path", ["weights/0.bin", "just.bin"])
def test_a_damaged_step_is_not_restored_and_nothing_is_left(
    local: House, source: Path, tmp_path: Path, path: str
) -> None:
    local.saved(source, 100)
    local.flip(100, path)
    outcome = local.run(action="restore", to=str(tmp_path / "out" / "x"))
    assert outcome.state == "failed"
    assert path in outcome.reason
    assert "CRC32C" in outcome.reason
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_fills_up_after_the_submit_is_not_touched(local: House, source: Path, tmp_path: Path) -> None:
    local.saved(source, 100)
    (tmp_path / "out").mkdir()
    record = local.submit(action="restore", to=str(tmp_path / "out"), max_parallelism=1)
    local.runner(quantum_s=1e-6).advance(local.queue.popleft(), redelivered=False)
    folder_of(tmp_path / "out", {"mine": b"mine"})
    local.drain()
    assert local.outcome(record).state == "failed"
    assert "not empty" in local.outcome(record).reason
    assert content(tmp_path / "out") == {"mine": b"mine"}
    assert not list(tmp_path.glob(".out*"))


def test_a_worker_that_sees_another_folder_of_that_name_says_so(local: House, source: Path, tmp_path: Path) -> None:
    local.saved(source, 100)
    record = local.submit(action="restore", to=str(tmp_path / "out"), max_parallelism=1)
    local.runner(quantum_s=1e-6).advance(local.queue.popleft(), redelivered=False)
    aside = tmp_path / f".out.restoring-{record.id}"
    aside.rename(tmp_path / "on another host")
    local.drain()  # by a worker that was not there at the beginning
    assert local.outcome(record).state == "failed"
    assert {row.error["code"] for row in local.results(record) if row.error} == {"target_taken"}
    assert any("share" in row.error["message"] for row in local.results(record) if row.error)
    assert not (tmp_path / "out").exists()


def test_only_a_worker_ends_a_restore_and_any_message_makes_it(local: House, source: Path, tmp_path: Path) -> None:
    local.saved(source, 100)
    record = local.submit(action="restore", to=str(tmp_path / "out"))
    local.drain(local.runner(is_worker=False))
    assert local.ledger.outcome(record.id) is None, "nobody who does not see the folder may say how it ended"
    assert not (tmp_path / "out").exists()
    from holdshort.jobs.broker.message import Message

    number = local.ledger.turns(record.id)[0].key.number + 1
    local.queue.append(Message("embed", record.id, 0, number, 4))
    local.drain()
    assert local.outcome(record).state == "completed"
    assert content(tmp_path / "out") == FILES


def test_prune_looks_at_the_steps_as_they_are_when_it_runs(house: House, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "small", {"a": b"a", "b/c": b"c"})
    for step in (100, 200, 250, 300, 350):
        house.saved(source, step)
    record = house.submit(action="prune", keep_last=2, keep_every=200)
    house.drain()
    assert house.outcome(record).state == "completed"
    assert steps(house.store, "run") == [200, 300, 350]
    removed = {row.body["step"] for row in house.results(record) if row.body and row.body["removed"]}
    assert removed == {100, 250}
    late = house.submit(action="prune", keep_last=1)
    house.store.delete(manifest_path("run", 350))  # the newest is gone meanwhile, so another one is
    house.drain()
    assert house.outcome(late).state == "completed"
    assert steps(house.store, "run") == [300]
    assert house.contents(300) == {"a": b"a", "b/c": b"c"}


@pytest.fixture
def target(house: House, request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Another store, of the same kind as the first."""
    url = f"{house.store.url}-other"
    server = request.getfixturevalue("s3_server") if url.startswith("s3://") else None
    house.replicas = {url: server.options} if server else {}
    return open_store(url, storage_options=server.options if server else None)


def test_replicas_are_the_same_and_are_not_copied_twice(
    house: House, target: Store, source: Path, tmp_path: Path
) -> None:
    house.saved(source, 100)
    house.saved(folder_of(tmp_path / "small", {"a": b"a"}), 200)
    outcome = house.run(action="replicate", to=target.url, step=100)
    assert outcome.state == "completed", outcome
    assert house.contents(100, target) == FILES
    assert read_manifest(target, "run", 100) == read_manifest(house.store, "run", 100)
    assert steps(target, "run") == [100]
    record = house.submit(action="replicate", to=target.url, step="all")
    assert record.size_bytes == 1, "only the step that is not there"
    house.drain()
    assert house.outcome(record).state == "completed"
    assert steps(target, "run") == [100, 200]
    assert {row.custom_id for row in house.results(record)} == {"100", "200/a"}


def test_what_an_earlier_try_left_in_the_target_is_used_if_its_sum_is_right(
    house: House, target: Store, source: Path
) -> None:
    house.saved(source, 100)
    assert house.run(action="replicate", to=target.url).state == "completed"
    target.delete(manifest_path("run", 100))  # as if it had ended just before its commit
    engine = house.engine()
    record = house.submit(action="replicate", to=target.url)
    house.drain(house.runner(engine))
    assert house.outcome(record).state == "completed"
    assert engine.moved_bytes <= record.size_bytes * 1.1, "each byte was read there, and none was written"
    assert house.contents(100, target) == FILES

    if house.store.parted is not None:
        # A file that is as long as it has to be, and damaged.
        data = FILES["weights/0.bin"]
        target.upload(house.at(100, "weights/0.bin"), [data[:-1] + b"!"])
        target.delete(manifest_path("run", 100))
        again = house.run(action="replicate", to=target.url)
        assert again.state == "failed"
        assert "submit the job again" in again.reason
        assert steps(target, "run") == []
        assert house.run(action="replicate", to=target.url).state == "completed"
        assert house.contents(100, target) == FILES


def test_a_damaged_step_is_not_replicated(house: House, target: Store, source: Path, tmp_path: Path) -> None:
    house.saved(source, 100)
    house.saved(folder_of(tmp_path / "small", {"a": b"a"}), 200)
    house.flip(100, "weights/0.bin")
    outcome = house.run(action="replicate", to=target.url, step="all")
    assert outcome.state == "failed"
    assert "step 100" in outcome.reason
    assert "weights/0.bin" in outcome.reason
    assert steps(target, "run") == [200], "the others are there"
    if target.parted is not None:
        assert house.unfinished(target) == []


# -- what is refused before anything is accepted ---------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"source": "x"}, "step"),
        ({"step": 1}, "source"),
        ({"source": "x", "step": "latest"}, "step"),
        ({"source": "x", "step": -1}, "step"),
        ({"source": "s3://key:secret@bucket/x", "step": 1}, "source"),
        ({"source": "x", "step": 1, "to": "y"}, "to"),
        ({"action": "restore", "to": "x", "step": "all"}, "step"),
        ({"action": "restore", "to": "s3://bucket/x"}, "to"),
        ({"action": "restore", "to": "x", "source": "y"}, "source"),
        ({"action": "restore", "to": "x", "keep_last": 1}, "keep_last"),
        ({"action": "verify", "to": "x"}, "to"),
        ({"action": "verify", "step": "newest"}, "step"),
        ({"action": "prune"}, "keep_last"),
        ({"action": "prune", "keep_last": 0}, "keep_last"),
        ({"action": "prune", "keep_last": 1, "step": 3}, "step"),
        ({"action": "replicate"}, "to"),
        ({"action": "replicate", "to": "s3://key:secret@bucket/x"}, "to"),
        ({"action": "delete"}, "action"),
        ({"source": "x", "step": 1, "slice_bytes": 1}, "slice_bytes"),
    ],
)
def test_what_does_not_fit_the_action_is_refused_by_its_name(spec: dict[str, object], field: str) -> None:
    with pytest.raises(ValueError, match=rf"(?m)^(  Value error, )?{field}\b") as refused:
        CheckpointJob.model_validate({"pool": "embed", "name": "run", **spec})
    assert "secret" not in str(refused.value).replace("://key:secret@", "") or field in ("source", "to")


def test_a_job_that_saves_is_as_it_always_was() -> None:
    job = CheckpointJob(pool="embed", source="/runs/7", name="run", step=0)
    assert (job.action, job.step, job.source) == ("save", 0, "/runs/7")
    restore = CheckpointJob(pool="embed", name="run", action="restore", to="out")
    assert restore.to == str(Path.cwd() / "out")


def test_what_can_t_be_done_is_refused_and_nothing_is_accepted(local: House, source: Path, tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFound, match=r"name: .* no checkpoint of run"):
        local.submit(action="verify")
    local.saved(source, 100)
    jobs = list(local.ledger.jobs())
    with pytest.raises(ObjectNotFound, match=r"step: .* no step 7"):
        local.submit(action="restore", to=str(tmp_path / "out"), step=7)
    with pytest.raises(RefusedJob, match=r"to: .* not empty"):
        local.submit(action="restore", to=str(source))
    with pytest.raises(RefusedJob, match=r"to: .* is the store"):
        local.submit(action="replicate", to=str(tmp_path / "store"))
    other = House(open_store(str(tmp_path / "other")))
    other.saved(folder_of(tmp_path / "else", {"a": b"a"}), 100)
    with pytest.raises(RefusedJob, match=r"to: .* has a step 100 of run already"):
        local.submit(action="replicate", to=other.store.url)
    assert list(local.ledger.jobs()) == jobs


def test_the_same_key_is_the_same_job_also_when_it_is_done(local: House, source: Path, tmp_path: Path) -> None:
    local.saved(source, 100)
    spec = {"action": "restore", "to": str(tmp_path / "out"), "idempotency_key": "k"}
    first = local.submit(**spec)
    local.drain()
    assert local.submit(**spec).id == first.id
    local.queue.clear()
    with pytest.raises(IdempotencyConflict):
        local.submit(**{**spec, "to": str(tmp_path / "elsewhere")})


# -- by the command --------------------------------------------------------------------------------------


def test_each_command_acts_here_and_now(tmp_path: Path, source: Path) -> None:
    broker = EmbeddedBroker(tmp_path / "broker")
    broker.start()
    settings: Settings = settings_for(tmp_path, broker.url)
    run = Commands(tmp_path, settings)
    total = sum(len(data) for data in FILES.values())
    saved = run("checkpoint", "save", "run", str(source), "--step", "1", "--json").json
    assert saved == {"name": "run", "step": 1, "files": len(FILES), "bytes": total}
    assert "was committed before" in run("checkpoint", "save", "run", str(source), "--step", "1", code=3).err
    Commands(source.parent, settings)("checkpoint", "save", "run", source.name, "--step", "2")
    house = House(open_store(settings.store))
    assert house.contents(1) == FILES
    assert run("checkpoint", "verify", "run", "--json").json["ok"] is True
    other = str(tmp_path / "other")
    assert run("checkpoint", "replicate", "run", other, "--json").json["copied"] == [2]
    told = run("checkpoint", "replicate", "run", other, "--step", "all").out.splitlines()
    assert [line.split(" in ")[0] for line in told] == ["step 1 of run is", "step 2 of run was"]
    assert house.contents(2, open_store(other)) == FILES
    house.flip(1, "weights/0.bin")
    found = run("checkpoint", "verify", "run", "--json", code=1).json
    assert {step["step"]: list(step["problems"]) for step in found["steps"]} == {1: ["weights/0.bin"], 2: []}
    assert "CRC32C" in run("checkpoint", "replicate", "run", str(tmp_path / "third"), "--step", "1", code=1).err
    assert steps(open_store(str(tmp_path / "third")), "run") == []
    assert house.unfinished(open_store(str(tmp_path / "third"))) == []
    for wrong in (("verify", "run", "newest"), ("prune", "run", "--keep-last", "1", "--dry-run", "--pool", "embed"),
                  ("restore", "run", "out", "--wait"), ("replicate", "run", "x", "--priority", "9")):  # fmt: skip
        run("checkpoint", *wrong, code=2)
    assert "its folder" in run("checkpoint", "list", "runs/7", code=2).err
    refused = run("checkpoint", "list", "s3://user:hidden@bucket/run", code=2).err
    assert "user name" in refused
    assert "hidden" not in refused
    assert "no checkpoint of nobody" in run("checkpoint", "verify", "nobody", code=4).err
    with Client(settings=settings) as client:
        assert list(client.jobs()) == [], "none of it was a job"


@pytest.mark.parametrize("where", ["local", "s3"])
def test_commands_see_what_training_saved_to_a_place_of_its_own(
    tmp_path: Path, source: Path, request: pytest.FixtureRequest, where: str
) -> None:
    place, options = str(tmp_path / "runs" / "7"), {}
    if where == "s3":
        place = f"{request.getfixturevalue('s3_url')}/runs/7"
        options = request.getfixturevalue("s3_server").options
    run = partial(Commands(tmp_path, None), HOLDSHORT_REPLICAS=json.dumps({place: options}))
    for step in (1, 2):
        checkpoints.save(source, place, step, storage_options=options)
    run("checkpoint", "save", f"checkpoint::{place}", str(source), "--step", "3")
    assert checkpoints.steps(place, storage_options=options) == [1, 2, 3]
    assert [each["step"] for each in run("checkpoint", "list", place, "--json").json] == [1, 2, 3]
    assert [each["ok"] for each in run("checkpoint", "verify", place, "--json").json["steps"]] == [True] * 3
    run("checkpoint", "restore", place, "back", "--step", "2")
    assert content(tmp_path / "back") == FILES
    assert run("checkpoint", "replicate", place, str(tmp_path / "other"), "--json").json["copied"] == [3]
    assert steps(open_store(str(tmp_path / "other")), "7") == [3]
    assert run("checkpoint", "prune", place, "--keep-last", "1", "--json").json["removed"] == [1, 2]
    assert checkpoints.steps(place, storage_options=options) == [3]
    assert "by their name" in run("checkpoint", "verify", place, "--pool", "embed", code=2).err
    assert "no folder /nowhere/7" in run("checkpoint", "list", "/nowhere/7", code=4).err
