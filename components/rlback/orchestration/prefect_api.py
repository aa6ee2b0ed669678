"""What is asked of a Prefect server over its REST API: runs, schedules, start, cancel, logs. Imports no Prefect.

So the console starts without it. `orchestration.serving` imports Prefect and serves the deployments named here.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rlback.errors import StageError
from rlback.orchestration.running import DIRECT, prefect_api
from rlback.project import Project

#: flow/deployment that carries one campaign on, and the one that looks after all of them on a schedule.
CARRY_ON, TEND = "campaign/carry-on", "tend/tend"
TIMEOUT_S = 5.0
#: States of a flow run that has yet to end.
UNDER_WAY = ("RUNNING", "PENDING", "CANCELLING", "PAUSED")
WAITING = ("SCHEDULED",)
UP = "rlback up"


class PrefectAway(StageError):
    """No Prefect server answers."""


@dataclass(frozen=True)
class FlowRun:
    """A flow run as Prefect knows it; times are ISO 8601, None where there is none yet."""

    id: str
    name: str
    flow: str
    campaign: str | None
    state: str
    state_name: str
    message: str
    expected: str | None
    start: str | None
    end: str | None
    seconds: float
    tries: int


class PrefectApi:
    """One server's API."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One request.

        Raises:
            PrefectAway: nothing answers, or not in time.
            StageError: it answers with an error.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.url}{path}", data=data, method=method, headers={"content-type": "application/json"}
        )
        try:
            with DIRECT.open(request, timeout=TIMEOUT_S) as answer:
                content = answer.read()
        except urllib.error.HTTPError as error:
            said = error.read(400).decode("utf-8", "replace")
            raise StageError(f"Prefect at {self.url} answered {method} {path} with {error.code}: {said}") from None
        except (OSError, ValueError) as error:
            why = getattr(error, "reason", error)
            raise PrefectAway(f"no Prefect server answers at {self.url} ({why})", remedy=f"start it: {UP}") from None
        return json.loads(content) if content else None

    def deployment(self, name: str) -> dict[str, Any]:
        """A deployment by `flow/name`.

        Raises:
            StageError: it is not there: nothing has served it yet.
        """
        try:
            found: dict[str, Any] = self.ask("GET", f"/deployments/name/{name}")
        except PrefectAway:
            raise
        except StageError:
            raise StageError(
                f"Prefect at {self.url} knows no deployment {name}", remedy=f"{UP} serves it; see .rlback/logs/worker.log"
            ) from None
        return found

    def start(
        self, name: str, parameters: dict[str, Any], key: str, run_name: str | None = None, at: datetime | None = None
    ) -> FlowRun:
        """Creates a flow run of a deployment, to start now or `at` a time; the same `key` again is the same run."""
        state: dict[str, Any] = {"type": "SCHEDULED"}
        if at is not None:
            state["state_details"] = {"scheduled_time": at.isoformat()}
        body: dict[str, Any] = {"parameters": parameters, "idempotency_key": key, "state": state}
        if run_name:
            body["name"] = run_name
        return _run(self.ask("POST", f"/deployments/{self.deployment(name)['id']}/create_flow_run", body), {})

    def runs(self, states: tuple[str, ...] | None = None, limit: int = 20) -> list[FlowRun]:
        """Flow runs, newest first; those of some states where these are named."""
        flows = {f["id"]: f["name"] for f in self.ask("POST", "/flows/filter", {"limit": 50})}
        asked: dict[str, Any] = {"limit": limit, "sort": "EXPECTED_START_TIME_DESC"}
        if states:
            asked["flow_runs"] = {"state": {"type": {"any_": list(states)}}}
            asked["sort"] = "EXPECTED_START_TIME_ASC"
        return [_run(found, flows) for found in self.ask("POST", "/flow_runs/filter", asked)]

    def run(self, id_: str) -> FlowRun:
        """One flow run."""
        return _run(self.ask("GET", f"/flow_runs/{id_}"), {})

    def cancel(self, id_: str) -> None:
        """Asks for the end of a run: a waiting one ends at once, a running one when its worker has ended it."""
        state = self.run(id_).state
        wanted = "CANCELLED" if state == "SCHEDULED" else "CANCELLING"
        self.ask("POST", f"/flow_runs/{id_}/set_state", {"state": {"type": wanted}, "force": False})

    def set_state(self, id_: str, kind: str, message: str) -> None:
        """Says what became of a run whose process can no longer say it."""
        self.ask("POST", f"/flow_runs/{id_}/set_state", {"state": {"type": kind, "message": message}, "force": True})

    def errors(self, id_: str, lines: int = 12) -> list[str]:
        """The last lines that a run logged at level ERROR or above, oldest first."""
        body = {
            "logs": {"flow_run_id": {"any_": [id_]}, "level": {"ge_": 40}}, "sort": "TIMESTAMP_DESC", "limit": 5,
        }  # fmt: skip
        found = self.ask("POST", "/logs/filter", body)
        text = "\n".join(entry["message"] for entry in reversed(found))
        return [line for line in text.splitlines() if line.strip()][-lines:]


def connect(project: Project) -> PrefectApi:
    """The server to ask.

    Raises:
        PrefectAway: none is configured and none runs.
    """
    url = prefect_api(project)
    if url is None:
        raise PrefectAway("no Prefect server of this project runs", remedy=f"start it: {UP}")
    return PrefectApi(url)


def _run(found: dict[str, Any], flows: dict[str, str]) -> FlowRun:
    state = found.get("state") or {}
    parameters = found.get("parameters") or {}
    begun, ended = found.get("start_time"), found.get("end_time")
    return FlowRun(
        found["id"], found["name"], flows.get(found.get("flow_id", ""), ""), parameters.get("campaign"),
        state.get("type", found.get("state_type") or ""), state.get("name", ""), state.get("message") or "",
        found.get("expected_start_time"), begun, ended, _seconds(begun, ended),
        int(found.get("run_count") or 0),
    )  # fmt: skip


def _seconds(begun: str | None, ended: str | None) -> float:
    if begun is None:
        return 0.0
    start = datetime.fromisoformat(begun)
    return ((datetime.fromisoformat(ended) if ended else datetime.now(UTC)) - start).total_seconds()
