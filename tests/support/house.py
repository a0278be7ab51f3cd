"""A store, a broker and pools, in which commands and clients are tried."""

from __future__ import annotations

import json
from pathlib import Path

from holdshort.jobs import BatchInferenceJob, Client, Settings
from holdshort.jobs.settings import PoolSettings
from support.brokers import EmbeddedBroker
from support.commands import Commands
from support.holdshort import Processes, settings_for


def _pool(function: str) -> PoolSettings:
    return PoolSettings(engine="function", options={"target": f"support.functions:{function}"})


class House:
    """Pools: `embed` answers, but for rows "bad"; `gated` once it is let; `idle` has no worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        broker = EmbeddedBroker(folder / "broker")
        broker.start()
        pools = {"embed": _pool("picky"), "gated": _pool("until_released"), "idle": _pool("echo")}
        self.settings: Settings = settings_for(folder, broker.url, pools=pools)
        self.processes = Processes(folder, self.settings)
        self.run = Commands(folder, self.settings)

    def write(self, name: str, *texts: str) -> str:
        """A JSON Lines file with these rows; returns its path."""
        lines = (json.dumps({"custom_id": f"{number}", "input": text}) for number, text in enumerate(texts))
        (self.folder / name).write_text("".join(f"{line}\n" for line in lines))
        return name

    def submit(self, *texts: str, pool: str = "embed") -> str:
        """A job of these rows; returns its id. By the SDK, for tests of what comes after."""
        with Client(settings=self.settings) as client:
            return client.submit(BatchInferenceJob(pool=pool, input=list(texts))).id

    def ended(self, *texts: str) -> str:
        """The same, once it has ended."""
        job_id = self.submit(*texts)
        with Client(settings=self.settings) as client:
            client.job(job_id).wait(timeout=30)
        return job_id
