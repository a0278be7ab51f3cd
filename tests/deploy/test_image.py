"""What the Dockerfile says. Nothing is built here: that needs a Docker daemon."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from typing import Any

import pytest

from support.composing import ROOT, Compose

DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _stage(name: str) -> str:
    """The lines of one stage."""
    return re.split(r"^FROM ", DOCKERFILE.partition(f" AS {name}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def _is_sent(path: str) -> bool:
    """Whether `.dockerignore` lets a path of the root into the build; the last line that fits decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#") and fnmatch(path, line.removeprefix("!")):
            sent = line.startswith("!")
    return sent


def test_all_that_the_wheel_is_made_of_is_sent_to_the_build() -> None:
    project = PROJECT["project"]
    needed = [*PROJECT["tool"]["setuptools"]["package-dir"].values(), "pyproject.toml", project["readme"]]
    for path in [*needed, *project["license-files"]]:
        assert _is_sent(path), path


@pytest.mark.parametrize("path", [".env", ".git", ".venv", "tests", "docs", "deploy", "docker-compose.yml"])
def test_secrets_and_what_is_not_needed_stay_out_of_the_build(path: str) -> None:
    assert not _is_sent(path)


def test_the_base_image_is_pinned_and_fits_the_package() -> None:
    (image,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+-slim-bookworm", image)
    classifier = f"Programming Language :: Python :: {image.removeprefix('python:').partition('-')[0]}"
    assert classifier in PROJECT["project"]["classifiers"]
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${PYTHON_IMAGE}"] * 2


def test_the_extras_exist() -> None:
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)", DOCKERFILE, re.MULTILINE)
    assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def test_the_image_runs_as_the_user_that_compose_names(compose: Compose) -> None:
    runtime = _stage("runtime")
    (uid,) = re.findall(r"^ARG UID=(\d+)", runtime, re.MULTILINE)
    assert re.findall(r"^USER (\S+)", runtime, re.MULTILINE) == ["${UID}:${UID}"]
    assert compose.services()["controller"]["user"] == f"{uid}:{uid}"


def test_the_image_has_the_folders_that_volumes_are_mounted_on(compose: Compose) -> None:
    for name, service in compose.services("cpu", "gpu").items():
        if "build" in service:
            for volume in service["volumes"]:
                assert volume["type"] == "bind" or re.search(rf"{volume['target']}\b", _stage("runtime")), (
                    name,
                    volume,
                )


def test_no_compiler_comes_into_the_runtime_image() -> None:
    runtime = _stage("runtime")
    assert "pip" not in runtime
    assert re.findall(r"apt-get install .*", runtime) == ["apt-get install --yes --no-install-recommends libgomp1 \\"]
