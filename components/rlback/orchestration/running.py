"""Which services of a project run on this machine, as `rlback up` wrote it down; free of Prefect.

`.rlback/services.json` names the process that watches them and where each one answers. It is a display and an
address book, never a record: what it says counts only while that process lives.
"""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path
from typing import Any

from rlback.disks import write_whole
from rlback.project import Project

#: Proxies of the environment are for other hosts than this one.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def services_file(project: Project) -> Path:
    """Where it is kept."""
    return project.state / "services.json"


def write_services(project: Project, services: dict[str, Any]) -> None:
    """Notes this process as the one that watches, and where each service answers."""
    write_whole(services_file(project), json.dumps({"pid": os.getpid(), "services": services}), writer=os.getpid())


def forget_services(project: Project) -> None:
    """Removes the note."""
    services_file(project).unlink(missing_ok=True)


def running_services(project: Project) -> dict[str, Any]:
    """Service -> {"url", "pid"} for those noted by a process that lives; {} where there is none."""
    try:
        noted = json.loads(services_file(project).read_text())
        os.kill(int(noted["pid"]), 0)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    services = noted.get("services")
    return services if isinstance(services, dict) else {}


def prefect_api(project: Project) -> str | None:
    """The API to ask: the one configured, else that of a running `rlback up`, else None."""
    configured = os.environ.get("PREFECT_API_URL")
    if configured:
        return configured.rstrip("/")
    noted = running_services(project).get("prefect")
    return f"{noted['url'].rstrip('/')}/api" if noted else None


def answers(url: str, timeout: float = 2.0) -> bool:
    """Whether something answers there with success."""
    try:
        with DIRECT.open(url, timeout=timeout):
            return True
    except (OSError, ValueError):
        return False
