"""Which indexes are asked: those that pip and uv would ask."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdshort.workers.models.listing import File, page_name, read
from holdshort.workers.models.sources import PYPI, Network, discover


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Without the user's own configuration, and with a file for pip's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "XDG_"))}
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        kept.pop(name, None)
    return {
        **kept,
        "HOME": str(tmp_path),
        "XDG_CONFIG_DIRS": str(tmp_path / "nothing"),
        "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"),
    }


def _configure(environment: dict[str, str], text: str) -> None:
    Path(environment["PIP_CONFIG_FILE"]).write_text(text)


def _urls(network: Network) -> list[str]:
    return [source.url for source in network.sources]


def test_a_given_index_is_the_only_one(environment: dict[str, str]) -> None:
    _configure(environment, "[global]\nindex-url = https://a.example/simple\n")
    assert _urls(discover("https://b.example/simple", environment=environment)) == ["https://b.example/simple"]


def test_without_any_word_it_is_pypi(environment: dict[str, str]) -> None:
    assert _urls(discover(environment={**environment, "PIP_CONFIG_FILE": os.devnull})) == [PYPI]


@pytest.mark.parametrize("name", ["PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"])
def test_the_environment_goes_before_the_configuration_of_pip(environment: dict[str, str], name: str) -> None:
    _configure(environment, "[global]\nindex-url = https://a.example/simple\n")
    (source,) = discover(environment={**environment, name: "https://b.example/simple"}).sources
    assert (source.url, source.origin) == ("https://b.example/simple", name)


def test_the_configuration_of_pip_names_an_index_further_ones_certificates_and_a_proxy(
    environment: dict[str, str], tmp_path: Path
) -> None:
    _configure(
        environment,
        "[global]\nindex-url = https://a.example/simple\nextra-index-url =\n    https://b.example/simple\n"
        f"    {tmp_path.as_uri()}\nfind-links = /wheels\ncert = /ca.pem\nproxy = http://proxy.example:3128\n",
    )
    network = discover(environment=environment)
    # What lies on this machine is looked at first.
    assert _urls(network) == [tmp_path.as_uri(), "/wheels", "https://a.example/simple", "https://b.example/simple"]
    assert (network.certificates, network.proxy) == (Path("/ca.pem"), "http://proxy.example:3128")


def test_with_no_index_only_links_are_looked_at(environment: dict[str, str]) -> None:
    _configure(environment, "[global]\nno-index = true\nfind-links = /wheels\n")
    assert _urls(discover(environment=environment)) == ["/wheels"]


def test_further_indexes_of_uv_may_have_names(environment: dict[str, str]) -> None:
    variables = {**environment, "UV_INDEX": "corp=https://c.example/simple https://d.example/simple"}
    assert _urls(discover(environment=variables)) == [PYPI, "https://c.example/simple", "https://d.example/simple"]


def test_certificates_of_the_environment_are_used(environment: dict[str, str]) -> None:
    variables = {**environment, "PIP_CONFIG_FILE": os.devnull, "SSL_CERT_FILE": "/b.pem"}
    assert discover(environment=variables).certificates == Path("/b.pem")
    assert discover(environment={**variables, "PIP_CERT": "/a.pem"}).certificates == Path("/a.pem")


def test_a_source_is_shown_without_its_credentials(environment: dict[str, str]) -> None:
    (source,) = discover("https://ana:secret@a.example:8443/simple", environment=environment).sources
    assert str(source) == "https://a.example:8443/simple"


def test_names_are_normalised() -> None:
    assert page_name("LLM_smol.Lm2") == "llm-smol-lm2"


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ('<a href="../../f/a%2B1.whl#sha256=AB">x</a>', File("a+1.whl", "https://i.example/f/a%2B1.whl", "AB")),
        ("<BASE HREF=\"https://f.example/\"><A HREF='a.whl'>", File("a.whl", "https://f.example/a.whl", None)),
        ('<a href="/f/a.whl#md5=1">', File("a.whl", "https://i.example/f/a.whl", None)),
        (
            '\ufeff {"files": [{"filename": "a.whl", "url": "/f/a.whl", "hashes": {"sha256": "ab"}, "more": 1}]}',
            File("a.whl", "https://i.example/f/a.whl", "ab"),
        ),
    ],
)
def test_both_forms_of_a_page_are_understood(page: str, expected: File) -> None:
    assert read(page.encode(), "https://i.example/simple/a/") == [expected]


@pytest.mark.parametrize("page", ["Bad gateway", "{", "{}", '{"files": [{"filename": "a"}]}', '{"files": 3}'])
def test_a_page_that_is_neither_form_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|Expecting|expecting"):
        read(page.encode(), "https://i.example/simple/a/")
