"""Looking at jobs and pools, and steering them."""

from __future__ import annotations

from pathlib import Path

from holdshort.jobs import Client
from support.commands import Commands
from support.holdshort import settings_for
from support.house import House
from support.waiting import eventually


def test_jobs_lists_what_has_not_ended_and_with_all_also_the_rest(run: Commands, house: House) -> None:
    ended, waiting = house.ended("a"), house.submit("b", pool="idle")
    active = {job["id"]: job for job in run("jobs", "--json").json}
    assert ended not in active
    assert active[waiting]["state"] == "queued"
    assert {ended, waiting} <= {job["id"] for job in run("jobs", "--all", "--json").json}
    table = run("jobs", "--all").out
    assert ended in table
    assert waiting in table


def test_a_cancelled_job_keeps_the_reason(run: Commands, house: House) -> None:
    job_id = house.submit("a", "b", pool="idle")
    found = run("cancel", job_id, "--reason", "wrong folder", "--json").json
    assert (found["state"], found["changed"]) == ("cancelled", True)
    assert run("cancel", job_id, "--json").json["changed"] is False
    assert "wrong folder" in run("status", job_id, code=5).out
    assert "cancelled (wrong folder)" in run("why", job_id).out
    assert "has ended" in run("pause", job_id, code=3).err
    assert run("retry", job_id, "--json").json["rows"] == 2


def test_a_paused_job_says_so_and_goes_on_when_it_is_resumed(run: Commands, house: House) -> None:
    job_id = house.submit("a", pool="idle")
    assert run("pause", job_id, "--json").json["state"] == "paused"
    assert "holdshort resume" in run("why", job_id).out
    assert "nothing to do" in run("pause", job_id).err
    assert run("resume", job_id, "--json").json["state"] == "queued"


def test_why_tells_each_situation(run: Commands, house: House) -> None:
    assert "holdshort worker idle" in run("why", house.submit("a", pool="idle")).out
    assert "has ended: completed" in run("why", house.ended("a"), "--json").json["why"]
    first = house.submit("a", pool="gated")
    worker = house.processes.worker(pool="gated")
    eventually(lambda: "It is running on 1 worker" in run("why", first).out, what="why says that it runs")
    second = house.submit("b", pool="gated")
    assert f"work on {first}, 1 job ahead" in run("why", second).out
    run("hold", "gated", "--for", "10m", "--reason", "load test")
    answer = run("why", second).out
    assert "load test" in answer
    assert "held by" in answer
    run("clear", "gated")
    (house.folder / "released").touch()
    with Client(settings=house.settings) as client:
        client.job(second).wait(timeout=30)
    worker.kill()


def test_a_hold_is_shown_until_it_is_cleared(run: Commands) -> None:
    why = "load test [7]"
    assert run("hold", "idle", "--for", "10m", "--reason", why, "--json").json["reason"] == why
    held = run("lane", "idle", "--json").json["idle"]
    assert (held["signal"], held["reason"]) == ("hold", why)
    assert 590 < held["another_s"] <= 600
    assert why in run("lane").out
    (pool,) = (pool for pool in run("pools", "--json").json if pool["name"] == "idle")
    assert (pool["lane"], pool["hold"]["reason"]) == ("hold", why)
    assert run("clear", "idle", "--json").json["changed"] is True
    assert "was not held" in run("clear", "idle").err
    assert run("lane", "show", "idle", "--json").json["idle"]["signal"] == "clear"
    run("hold", "embd", code=4)


def test_pools_shows_workers_and_queues(run: Commands, house: House) -> None:
    house.submit("a", "b", pool="idle")
    found = {pool["name"]: pool for pool in run("pools", "--json").json}
    assert len(found["embed"]["workers"]) == 1
    assert found["idle"]["workers"] == []
    assert found["idle"]["queue_depth"] >= 1
    assert found["idle"]["rows_left"] >= 2
    assert found["idle"]["backlog_s"] is None
    assert "none" in run("pools").out


def test_recover_names_the_jobs_whose_messages_it_published(run: Commands, house: House) -> None:
    job_id = house.submit("a", pool="idle")
    assert job_id in run("recover", "--json").json
    assert job_id in run("recover").out.split()


def test_a_broker_that_is_away_exits_with_6_where_it_is_needed_and_a_job_is_accepted_all_the_same(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("in the way")
    run = Commands(tmp_path, settings_for(tmp_path, f"embedded://{tmp_path}/file/broker.db"))
    (tmp_path / "rows.jsonl").write_text('{"input": "a"}\n')
    job_id = run("submit", "embed", "rows.jsonl").out.strip()
    assert run("status", job_id, "--json").json["state"] == "queued"
    assert "does not answer" in run("recover", code=6).err
    assert run("pools", "--json").json[0]["queue_depth"] is None


def test_a_typo_in_the_configuration_exits_with_7_and_names_the_key_and_the_nearest(tmp_path: Path) -> None:
    run = Commands(tmp_path, None)
    (tmp_path / "holdshort.toml").write_text('stroe = "x"\n')
    ran = run("jobs", code=7)
    assert "holdshort.toml" in ran.err
    assert "did you mean 'store'" in ran.err
    (tmp_path / "holdshort.toml").write_text('[pools.embed]\nengin = "minilm"\n')
    assert "did you mean 'engine'" in run("jobs", code=7).err
    (tmp_path / "holdshort.toml").write_text('[pools.embed\nengine = "minilm"\n')
    assert "holdshort.toml" in run("jobs", code=7).err
    run("--config", "nowhere.toml", "jobs", code=7)
    (tmp_path / "holdshort.toml").write_text('webhook_secret = "hunter2"\n')
    ran = run("controller", code=7)
    assert "whsec_" in ran.err
    assert "hunter2" not in ran.err


def test_urls_on_the_command_line_win(tmp_path: Path) -> None:
    run = Commands(tmp_path, None)
    (tmp_path / "holdshort.toml").write_text('store = "configured"\n')
    ran = run("--store", "given", "--broker", f"embedded://{tmp_path}/broker.db", "jobs", "--json")
    assert ran.json == []
    assert (tmp_path / "given").is_dir()
    assert not (tmp_path / "configured").exists()


def test_doctor_finds_a_healthy_house_healthy(run: Commands) -> None:
    found = {finding["what"]: finding for finding in run("doctor", "--json").json}
    assert all(finding["ok"] for finding in found.values()), found
    assert {"configuration", "store", "broker", "engine function of pool embed"} <= found.keys()
    assert "idle" in found["workers of pool embed"]["found"]
    assert "NOT OK" not in run("doctor").out


def test_doctor_says_what_is_broken_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    run = Commands(tmp_path, None)
    (tmp_path / "holdshort.toml").write_text(
        f'store = "{tmp_path}/file/store"\nbroker = "embedded://{tmp_path}/file/broker.db"\n'
        '[pools.a]\nengine = "function"\noptions = { target = "nowhere:nothing" }\n'
        '[pools.b]\nengine = "minilmm"\n'
        '[pools.c]\nengine = "function"\noptions = { target = "no[red]where:nothing" }\n'
    )
    ran = run("doctor", "--json", code=1)
    found = {finding["what"]: finding for finding in ran.json}
    for what in ("store", "broker", "engine function of pool a", "engine minilmm of pool b"):
        assert not found[what]["ok"], found
        assert found[what]["cure"], found[what]
    assert "minilm" in found["engine minilmm of pool b"]["found"] + found["engine minilmm of pool b"]["cure"]
    assert "no[red]where" in run("doctor", code=1).out, "as it is, though it looks like markup"
    (tmp_path / "holdshort.toml").write_text("stroe = 1\n")
    assert "NOT OK" in run("doctor", code=1).out
    (finding,) = run("doctor", "--json", code=1).json
    assert "did you mean 'store'" in finding["found"]


def test_what_would_run_long_is_refused_at_once_when_it_cannot(tmp_path: Path, run: Commands, house: House) -> None:
    assert "did you mean 'embed'" in run("worker", "embd", code=4).err
    run("watch", "nowhere", "--pool", "embed", code=2)
    assert "did you mean 'embed'" in run("watch", ".", "--pool", "embd", code=4).err
    assert "lies in the store" in run("watch", "store", "--pool", "embed", code=7).err
    broken = Commands(tmp_path, None)
    (tmp_path / "holdshort.toml").write_text(
        f'store = "{tmp_path}/store"\nbroker = "embedded://{tmp_path}/broker.db"\n'
        '[pools.a]\nengine = "function"\noptions = { target = "nowhere:nothing" }\n'
    )
    assert "nowhere" in broken("worker", "a", code=7).err
