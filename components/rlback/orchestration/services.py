"""The processes of `rlback up`: how each is started, when it answers, and how all of them end.

Each is a session of its own, so that it can be ended with everything it started; and each is tied to this process,
so that none is left where this one is killed.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rlback.errors import ConfigError, StageError
from rlback.orchestration.engine import ending_with
from rlback.orchestration.running import answers
from rlback.project import Project

LOOPBACK = "127.0.0.1"
#: In the order of starting; the worker asks Prefect, the console asks both.
PORTS = {"prefect": 4200, "mlflow": 5000, "console": 8700}
NAMES = ("prefect", "mlflow", "worker", "console")
WAIT_S = 300.0
END_S = 10.0
LOG_TAIL = 12


@dataclass
class Service:
    """One process: its command and environment, where it answers, and what says that it does."""

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    url: str
    ready: Callable[[], bool]
    log: Path
    after: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self, cwd: Path) -> None:
        """Starts it; its output goes to its log, which nobody else may read: the console's names a code that lets in."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.parent.chmod(0o700)
        with open(self.log, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as output:
            os.fchmod(output.fileno(), 0o600)  # one from before may be open to others
            self.process = subprocess.Popen(
                self.command, env=self.environment, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, preexec_fn=ending_with(os.getpid()),
            )  # fmt: skip

    def ended(self) -> int | None:
        """Its exit status, None while it runs."""
        return self.process.poll() if self.process is not None else None

    def tail(self) -> list[str]:
        """The last lines of its log."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        return [line for line in lines if line.strip()][-LOG_TAIL:]

    def signal(self, number: int) -> None:
        """To all of its session: what it started goes with it."""
        if self.process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)


def check_port(name: str, port: int) -> None:
    """Refuses a port that something listens on.

    Raises:
        ConfigError: names the port and what to do.
    """
    if not 0 < port < 65536:
        raise ConfigError(f"{port} is no port for {name}", remedy="take a number from 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            what = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be listened on ({error.strerror})"
            raise ConfigError(
                f"port {port} for {name} {what}",
                remedy=f"end what listens there (`ss -ltnp 'sport = :{port}'` names it), or take another: --{name}-port N",
            ) from None


def make_services(
    project: Project, only: Sequence[str], ports: dict[str, int], *, at_once: int
) -> list[Service]:
    """The services asked for, in order of starting, none started yet."""
    urls = {name: f"http://{LOOPBACK}:{port}/" for name, port in ports.items()}
    temporary = project.state / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    common = {**os.environ, "RLBACK_PROJECT": str(project.root), "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
    if "prefect" in only:
        common["PREFECT_API_URL"] = f"{urls['prefect']}api"
    elif "PREFECT_API_URL" not in common and "worker" in only:
        raise ConfigError("a worker needs a Prefect server", remedy="add prefect to --only, or set PREFECT_API_URL")
    made = {
        "prefect": lambda: _prefect(project, common, ports["prefect"], urls["prefect"]),
        "mlflow": lambda: _mlflow(project, common, ports["mlflow"], urls["mlflow"]),
        "worker": lambda: _worker(project, common, at_once),
        "console": lambda: _console(project, common, ports["console"], urls["console"], urls["mlflow"]),
    }
    return [made[name]() for name in NAMES if name in only]


def _prefect(project: Project, common: dict[str, str], port: int, url: str) -> Service:
    command = [
        sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--host", LOOPBACK,
        "--port", str(port), "--log-level", "warning", "--lifespan", "on", "--timeout-graceful-shutdown", "3",
    ]  # fmt: skip
    environment = {
        **common, "PREFECT_SERVER_API_HOST": LOOPBACK, "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_UI_API_URL": f"{url}api", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1",
        # One installation of this package and its files is served; nothing is built elsewhere.
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(project.root / ".prefect" / "ui"),
    }  # fmt: skip
    return Service("prefect", command, environment, url, lambda: answers(f"{url}api/health"), project.logs / "prefect.log")


def _mlflow(project: Project, common: dict[str, str], port: int, url: str) -> Service:
    command = [
        sys.executable, "-m", "rlback.registry.mlflow_ui", "--port", str(port),
    ]  # fmt: skip
    return Service("mlflow", command, dict(common), url, lambda: answers(f"{url}health"), project.logs / "mlflow.log")


def _worker(project: Project, common: dict[str, str], at_once: int) -> Service:
    command = [sys.executable, "-m", "rlback.orchestration.serving", "--at-once", str(at_once)]
    environment = {
        **common, "PREFECT_LOGGING_LEVEL": "INFO", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
        "PREFECT_LOGGING_TO_API_ENABLED": "true", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }  # fmt: skip
    ready, service = project.state / "worker.ready", []

    def is_ready() -> bool:
        process = service[0].process
        try:
            return process is not None and ready.read_text() == str(process.pid)
        except FileNotFoundError:
            return False

    made = Service("worker", command, environment, "", is_ready, project.logs / "worker.log", after=("prefect",))
    service.append(made)
    return made


def _console(project: Project, common: dict[str, str], port: int, url: str, mlflow: str) -> Service:
    command = [sys.executable, "-m", "rlback", "console", "--port", str(port)]
    return Service("console", command, dict(common), url, lambda: answers(f"{url}healthz"), project.logs / "console.log")


class Watch:
    """Starts services, waits until each answers, watches them, and ends them all."""

    def __init__(self, project: Project, services: list[Service], tell: Callable[[str, str], None]) -> None:
        self.project = project
        self.services = services
        self.tell = tell
        self._stop = False

    def stop(self, *_: object) -> None:
        """To be called from a signal handler: ends the waiting."""
        self._stop = True

    def start(self) -> bool:
        """Starts each one as soon as those it needs answer; False where it was told to stop meanwhile.

        Raises:
            StageError: one ended, or did not answer in time.
        """
        began, up = time.monotonic(), set[str]()
        names = {service.name for service in self.services}
        while len(up) < len(self.services):
            for service in self.services:
                if service.name in up:
                    continue
                if service.process is None and not (set(service.after) & names) - up:
                    service.start(self.project.root)
                    self.tell(service.name, "starting")
                elif service.process is not None and service.ready():
                    up.add(service.name)
                    self.tell(service.name, f"answers after {time.monotonic() - began:.0f} s")
            self._require_alive()
            if self._stop:
                return False
            if time.monotonic() - began > WAIT_S:
                late = next(s for s in self.services if s.name not in up)
                raise _failed(late, f"{late.name} did not answer within {WAIT_S:.0f} s")
            time.sleep(0.2)
        return True

    def watch(self) -> None:
        """Until it is told to stop.

        Raises:
            StageError: a service ended by itself.
        """
        while not self._stop:
            self._require_alive()
            time.sleep(0.3)

    def _require_alive(self) -> None:
        for service in self.services:
            status = service.ended()
            if status is not None and not self._stop:
                how = f"was ended by signal {-status}" if status < 0 else f"ended by itself with status {status}"
                raise _failed(service, f"{service.name} {how}")

    def end(self) -> None:
        """Ends all in reverse order, and whatever they started; waits until they are gone."""
        begun = [service for service in reversed(self.services) if service.process is not None]
        for service in begun:
            service.signal(signal.SIGTERM)
        deadline = time.monotonic() + END_S
        for service in begun:
            with suppress(subprocess.TimeoutExpired):
                service.process.wait(max(0.1, deadline - time.monotonic()))  # type: ignore[union-attr]
        for service in begun:
            service.signal(signal.SIGKILL)
            service.process.wait()  # type: ignore[union-attr]


def _failed(service: Service, what: str) -> StageError:
    tail = "\n".join(f"        | {line}" for line in service.tail())
    return StageError(f"{what}; the rest is ended" + (f"\n{tail}" if tail else ""), remedy=f"its log: {service.log}")
