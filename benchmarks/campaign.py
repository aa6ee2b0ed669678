"""What share of a demo campaign is not model work: python -m benchmarks.campaign PROJECT [SETTING ...]

In a process of its own, so that the clock starts before the command's first import.
"""

from __future__ import annotations

import time

BEGAN = time.perf_counter()

import contextlib  # noqa: E402
import io  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from benchmarks.profiling import Stopwatch, wrapped_when_imported  # noqa: E402

DEMO = Path(__file__).resolve().parents[1] / "configs" / "demo.yaml"

#: Model work in a campaign, wherever it is called from.
INSIDE = (
    ("rlback.training.supervised", "train_base"),
    ("rlback.training.reward", "fit_reward"),
    ("rlback.training.on_policy", "optimise"),
    ("rlback.models.sampler", "sample"),
    ("rlback.models.policy", "token_logps"),
    ("rlback.models.reward_model", "RewardModel.forward"),
)
#: What is called from inside these and is book-keeping all the same.
OUTSIDE = (
    ("rlback.training.state", "StageState.keep"),
    ("rlback.training.state", "StageState.resume"),
    ("rlback.models.checkpoint", "save_policy"),
    ("rlback.campaign.observations", "Observer.__call__"),
    ("rlback.campaign.progress", "ProgressFile.report"),
)


def outside_share(project: str, settings: tuple[str, ...] = ()) -> dict[str, Any]:
    """Share of `rlback run configs/demo.yaml` in a new project, from this module's import on, that is not model work.

    And the same from the first model work on: without the imports, a new database of MLflow's and a new server of
    Prefect's, which take as long however much is trained.

    Modules are met as the command itself imports them: some it imports while Prefect's server starts, and to import
    them here first would make one after the other of what goes on at once. `settings`: `--set` for the configuration.

    Raises:
        RuntimeError: the command failed, or what is timed is not there (any more).
    """
    watch = Stopwatch(time.perf_counter)
    made = time.perf_counter()
    names = [(*name, "inside") for name in INSIDE] + [(*name, "outside") for name in OUTSIDE]
    chosen = [word for text in settings for word in ("--set", text)]
    with wrapped_when_imported(names, watch) as missing, contextlib.redirect_stdout(io.StringIO()):
        from rlback.__main__ import main

        status = main(["--project", project, "run", str(DEMO), *chosen, "--json"])
    watch.stop()
    total = time.perf_counter() - BEGAN
    if status:
        raise RuntimeError(f"rlback ended with status {status}")
    if missing:
        raise RuntimeError(f"the campaign's work cannot be told apart: {', '.join(missing)} are not there")
    inside, start = watch.seconds["inside"], made - BEGAN + watch.first["inside"]
    figures = {
        "campaign_outside_share": round(1 - inside / total, 4),
        "campaign_outside_share_started": round(1 - inside / (total - start), 4),
    }
    return {"figures": figures, "samples": {"inside_s": inside, "start_s": start, "total_s": total}}


if __name__ == "__main__":
    print(json.dumps(outside_share(sys.argv[1], tuple(sys.argv[2:]))))
