"""Help says all that is needed, for every command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from holdshort.cli.app import app
from holdshort.cli.exits import Exit
from support.commands import Commands

COMMANDS = [
    "submit", "jobs", "status", "results", "why", "cancel", "pause", "resume", "retry", "recover", "pools", "hold",
    "clear", "lane show", "lane dismiss", "models list", "models pull", "models path", "models serve", "chat",
    "gateway", "probe", "up", "worker", "controller", "watch", "doctor", "demo", "profile list", "profile explain",
    "cache ls", "cache prune", "cache verify",
        "checkpoint save", "checkpoint list", "checkpoint restore", "checkpoint prune",
    "checkpoint verify", "checkpoint replicate",
]  # fmt: skip


def _names(group: typer.Typer, prefix: str = "") -> set[str]:
    shown = [command for command in group.registered_commands if not command.hidden]
    names = {prefix + (c.name or c.callback.__name__.rstrip("_")) for c in shown if c.callback}
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            names |= _names(inner.typer_instance, f"{prefix}{inner.name} ")
    return names


def test_the_commands_are_these() -> None:
    assert _names(app) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_shows_an_example_and_offers_json(command: str) -> None:
    found = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "100", "TERM": "dumb"})
    assert found.exit_code == 0
    assert "Example" in found.output
    assert f"holdshort {command}" in found.output
    assert "--json" in found.output


def test_the_help_lists_every_exit_code(tmp_path: Path) -> None:
    ran = Commands(tmp_path, None)("--help")
    listed = {int(number) for number in re.findall(r"\b(\d+)\s+[a-z]", ran.out.partition("Exit codes:")[2])}
    assert listed == {int(code) for code in Exit}


def test_a_completion_script_is_printed(tmp_path: Path) -> None:
    ran = Commands(tmp_path, None)("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "complete" in ran.out
    assert "holdshort" in ran.out


def test_the_version_is_printed(tmp_path: Path) -> None:
    from importlib.metadata import version

    assert Commands(tmp_path, None)("--version").out == f"holdshort {version('holdshort')}\n"


@pytest.mark.parametrize("arguments", [["sumbit"], ["submit"], ["jobs", "--al"], ["hold", "embed", "--for", "soon"]])
def test_wrong_usage_exits_with_2(tmp_path: Path, arguments: list[str]) -> None:
    Commands(tmp_path, None)(*arguments, code=2)
