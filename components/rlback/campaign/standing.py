"""How a campaign stands, in a line: for the terminal and for the console."""

from __future__ import annotations

import os
import time

from rlback.campaign.progress import read_progress
from rlback.project import Project


def running_line(project: Project, name: str) -> str | None:
    """A line on a stage under way; None where there is none or its process is gone."""
    progress = read_progress(project.state / "progress" / f"{name}.json")
    if progress is None or progress["passed"] >= progress["of"]:
        return None
    try:
        os.kill(progress["pid"], 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    much = f" {progress['done']}/{progress['total']}" if progress["total"] else ""
    doing = progress.get("part") or progress["stage"]
    minutes = (time.time() - progress["began"]) / 60
    return f"round {progress['round']} of {progress['rounds']}, {doing}{much}, for {minutes:.1f} min"
