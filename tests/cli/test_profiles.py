"""`holdshort profile`, and profiles of one's own in the configuration file."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pytest

from holdshort.jobs import Settings
from holdshort.storage.errors import SettingsError
from holdshort.storage.filesystem import TrainingFileSystem
from support.brokers import EmbeddedBroker
from support.commands import Commands
from support.holdshort import settings_for

MINE = '[profiles.mine]\nextends = "training"\npart_bytes = "2MiB"\nconnections = 4\n'


@pytest.fixture
def run(tmp_path: Path) -> Commands:
    broker = EmbeddedBroker(tmp_path / "broker")
    broker.start()
    return Commands(tmp_path, settings_for(tmp_path, broker.url))


def test_explain_says_which_profile_counts_and_where_each_value_comes_from(run: Commands) -> None:
    said = run("profile", "explain", "s3://models/llama/model.safetensors").out
    assert said.startswith("serving: model.safetensors holds weights by its name (*.safetensors).")
    for word in ("part_bytes", "16 MiB", "profile serving", "memory_bytes", "this node", "60 s"):
        assert word in said
    told = json.loads(run("profile", "explain", "training::gs://bucket/x", "--json").out)
    assert (told["profile"], told["chosen_by"]) == ("training", "name")
    values = {value["name"]: value for value in told["values"]}
    assert values["freshness_s"]["value"] is None  # for ever
    assert all(value["reason"] and value["source"] for value in values.values())
    assert "No profile is called 'trainig'" in run("profile", "explain", "trainig::s3://b/x", code=7).err


def test_a_profile_of_ones_own_is_listed_explained_and_used(
    run: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "holdshort.toml").write_text(MINE)
    listed = {each["name"]: each for each in json.loads(run("profile", "list", "--json").out)}
    assert set(listed) == {"training", "serving", "checkpoint", "plain", "mine"}
    assert listed["mine"]["extends"] == "training"
    values = {v["name"]: v for v in json.loads(run("profile", "explain", "mine::s3://b/x", "--json").out)["values"]}
    assert (values["part_bytes"]["value"], values["part_bytes"]["source"]) == (2 * 2**20, "profile mine")
    assert values["read_ahead"]["source"] == "profile training"
    monkeypatch.setenv("HOLDSHORT_CONFIG", str(tmp_path / "holdshort.toml"))
    fs = TrainingFileSystem(target_protocol="memory", profile="mine", connections=3)
    assert (fs.explain("x")[1].access.part_bytes, fs.explain("x")[1].access.connections) == (2 * 2**20, 3)


@pytest.mark.parametrize("name", ["mine", "plain"])
def test_explain_says_how_a_profile_is_used_that_is_no_prefix(
    run: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "holdshort.toml").write_text(MINE)
    monkeypatch.setenv("HOLDSHORT_CONFIG", str(tmp_path / "holdshort.toml"))
    said = run("profile", "explain", f"{name}::memory://b/x").out
    (code,) = (line.partition("; say ")[2] for line in said.splitlines() if "; say " in line)
    opened = eval(code, {"fsspec": fsspec})
    assert opened.path == "/b/x"
    assert opened.fs.explain(opened.path)[1].profile == name
    assert "; say " not in run("profile", "explain", "training::memory://b/x").out


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("[profiles.mine]\npart_bytes = 1", "profiles.mine has to say which profile it changes"),
        ('[profiles.mine]\nextends = "trainig"', "extends 'trainig', which there is not"),
        ('[profiles.mine]\nextends = "training"\nparts = 1', "there is no value 'parts'"),
        (
            '[profiles.mine]\nextends = "training"\npart_bytes = "2 parts"',
            "write a number of bytes",
        ),
        ('[profiles.training]\nextends = "serving"', "a name of letters and digits that is not taken"),
        ("profiles = 3", "profiles"),
    ],
)
def test_a_table_that_cant_be_used_is_refused_with_the_key_and_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, said: str
) -> None:
    (tmp_path / "holdshort.toml").write_text(table)
    monkeypatch.setenv("HOLDSHORT_CONFIG", str(tmp_path / "holdshort.toml"))
    with pytest.raises(SettingsError, match=r"holdshort\.toml") as caught:
        TrainingFileSystem(target_protocol="memory", profile="mine")
    assert said in str(caught.value)
    with pytest.raises(SettingsError):
        Settings.load()
