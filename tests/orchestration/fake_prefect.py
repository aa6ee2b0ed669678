"""The few answers of Prefect's API that the console and the outbox ask for, over real HTTP on loopback."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class FakePrefect:
    """Flow runs in a list; `down` makes it answer 500."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.logs: list[dict[str, Any]] = []
        self.down = False
        self.url = ""

    def add(self, campaign: str | None, kind: str, name: str, message: str = "", flow: str = "f1") -> str:
        """A flow run in some state; returns its id."""
        id_ = f"00000000-0000-4000-8000-{len(self.runs):012d}"
        self.runs.append(
            {"id": id_, "name": campaign or "tend", "flow_id": flow, "parameters": {"campaign": campaign} if campaign else {},
             "state": {"type": kind, "name": name, "message": message}, "start_time": "2026-01-02T03:04:05+00:00",
             "end_time": "2026-01-02T03:04:15+00:00", "expected_start_time": "2026-01-02T03:04:05+00:00"}
        )  # fmt: skip
        return id_

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if self.down:
            return 500, {"detail": "down"}
        if path.startswith("/deployments/name/"):
            return 200, {"id": "tend" if path.endswith("/tend") else "carry-on"}
        if path.endswith("/create_flow_run"):
            held = next((r for r in self.runs if r.get("key") == body["idempotency_key"]), None)
            if held is None:
                flow = "f2" if path.startswith("/deployments/tend/") else "f1"
                self.add(body["parameters"].get("campaign"), "SCHEDULED", "Scheduled", flow=flow)
                held = self.runs[-1]
                if at := body["state"].get("state_details", {}).get("scheduled_time"):
                    held["expected_start_time"] = at
                held["key"] = body["idempotency_key"]
            return 201, held
        if path == "/flows/filter":
            return 200, [{"id": "f1", "name": "campaign"}, {"id": "f2", "name": "tend"}]
        if path == "/logs/filter":
            return 200, self.logs
        if path == "/flow_runs/filter":
            kinds = body.get("flow_runs", {}).get("state", {}).get("type", {}).get("any_")
            return 200, [r for r in self.runs if not kinds or r["state"]["type"] in kinds][: body["limit"]]
        run = next((r for r in self.runs if r["id"] in path), None)
        if run is None:
            return 404, {"detail": "Flow run not found"}
        if path.endswith("/set_state"):
            run["state"] = {"type": body["state"]["type"], "name": body["state"]["type"].title()}
        return 200, run


@contextmanager
def fake_prefect() -> Iterator[FakePrefect]:
    fake = FakePrefect()

    class Handler(http.server.BaseHTTPRequestHandler):
        def _any(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, content = fake.answer(self.command, self.path.removeprefix("/api"), body)
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _any

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    fake.url = f"http://127.0.0.1:{server.server_port}/api"
    try:
        yield fake
    finally:
        server.shutdown()
