"""Reads GPUs in a process of its own, which finds the library of its LD_LIBRARY_PATH.

For each line on standard input, {"answers": what the library says, "ours": pids}, one line of what was read.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from holdshort.workers.probe.gpu import open_gpus
from holdshort.workers.probe.measured import Sample, Unmeasured

for line in sys.stdin:
    asked = json.loads(line)
    Path(os.environ["NVML_ANSWERS"]).write_text(asked["answers"])
    gpus = open_gpus()
    read = gpus if isinstance(gpus, Unmeasured) else gpus.read(set(asked["ours"]))
    found = Sample(Unmeasured("not asked"), read).as_dict()
    sys.stdout.write(json.dumps({**found, "cure": gpus.cure if isinstance(gpus, Unmeasured) else ""}) + "\n")
    sys.stdout.flush()
