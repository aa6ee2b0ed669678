"""How the CLI asks Prefect to carry a campaign on.

With `PREFECT_API_URL` set, or while `rlback up` runs, flow runs are reported to that server. Otherwise a server of
our own runs on a loopback port for as long as it is needed; its database lies in the project, and it ends with this process even
when that is killed.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rlback.campaign import machine
from rlback.campaign.plan import Finished, Step
from rlback.campaign.readiness import get_ready, no_collection
from rlback.errors import StageError
from rlback.orchestration.running import answers, prefect_api
from rlback.project import Project

START_SECONDS = 120
#: Holds the URL of a server that a parent of this process has started, which may not answer yet.
STARTED_BY_US = "RLBACK_PREFECT_STARTED"
_PR_SET_PDEATHSIG = 1


def flows_directory() -> Path:
    """The checkout's flows/, which is not part of the installed package.

    Raises:
        StageError: the package is installed without its checkout.
    """
    directory = Path(__file__).resolve().parents[3] / "flows"
    if not (directory / "campaign_flow.py").is_file():
        raise StageError(
            f"there is no flows/ at {directory.parent}: Prefect flows need a checkout of the project",
            remedy="use --engine inline, or install with `pip install -e .` in a checkout",
        )
    return directory


def advance_through_prefect(project: Project, campaign: str) -> machine.Waiting | Finished:
    """Runs the campaign flow in this process until a person is needed or the campaign is finished.

    Raises:
        RlbackError: what a stage raised.
    """
    with server(project) as until_it_answers:
        # While the server starts, which takes as long.
        with no_collection():
            flow = load_flow(flows_directory() / "campaign_flow.py").campaign_flow
            get_ready(project, campaign)
        until_it_answers()
        state = flow(campaign, str(project.root), return_state=True)
    if not state.is_completed():
        state.result(raise_on_failure=True)
        raise StageError(f"the flow run of {campaign} ended as {state.name}: {state.message}")
    due = machine.what_next(project, campaign)
    if isinstance(due, Step):
        raise StageError(f"{campaign} still has {due.stage} to do", remedy=f"rlback advance {campaign}")
    return due


@contextmanager
def server(project: Project) -> Iterator[Callable[[], None]]:
    """Provides a Prefect API, the one configured or a server started for the time being; yields what waits for it.

    A server of our own starts in the background: call what is yielded before anything is asked of it. It raises
    StageError where the server does not come up. A server that somebody else configured is taken as it is.
    """
    configured = os.environ.get("PREFECT_API_URL")
    if configured:
        ours = configured == os.environ.get(STARTED_BY_US)
        yield partial(_require_answer, configured, None) if ours else _nothing
        return
    running = prefect_api(project)
    if running is not None and answers(f"{running}/health"):
        os.environ["PREFECT_API_URL"] = running
        try:
            yield _nothing
        finally:
            del os.environ["PREFECT_API_URL"]
        return
    process, url = _start(project)
    os.environ["PREFECT_API_URL"] = os.environ[STARTED_BY_US] = url
    # Nobody reads the logs of a server that ends with us, and its last ones would find it gone and say so on stderr.
    os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")
    try:
        yield partial(_require_answer, url, process)
    finally:
        del os.environ["PREFECT_API_URL"], os.environ[STARTED_BY_US]
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _nothing() -> None:
    pass


def _start(project: Project) -> tuple[subprocess.Popen[bytes], str]:
    project.require_space()
    log = project.root / ".prefect" / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    factory = "prefect.server.api.server:create_app"
    command = [
        sys.executable, "-m", "uvicorn", "--factory", factory, "--host", "127.0.0.1", "--port", str(port),
        "--log-level", "error", "--lifespan", "on",
    ]  # fmt: skip
    environment = {**os.environ, "PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            preexec_fn=ending_with(os.getpid()), cwd=project.root,
        )  # fmt: skip
    return process, f"http://127.0.0.1:{port}/api"


def _require_answer(url: str, process: subprocess.Popen[bytes] | None) -> None:
    """Waits until the API at `url` answers; a server (`process`, None where a parent of ours has it) that ended does not."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and (process is None or process.poll() is None):
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    ended = process.poll() if process is not None else None
    what = f"did not answer within {START_SECONDS} s" if ended is None else f"ended at once with status {ended}"
    raise StageError(
        f"the Prefect server at {url} {what}; its log is .prefect/server.log in the project",
        remedy="try again, or carry on without it: rlback advance --engine inline",
    )


def ending_with(parent: int) -> Any:
    """A function that ties a child's life to ours, where the system can (Linux)."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def tie() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return tie


def die_with(variable: str) -> None:
    """Ties this process's life to its parent, where `variable` says that the parent is the one that serves."""
    served_by = os.environ.get(variable)
    tie = ending_with(int(served_by)) if served_by and served_by.isdigit() and os.getppid() == int(served_by) else None
    if tie is not None:
        tie()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def load_flow(path: Path) -> Any:
    """The module of a flow's file."""
    # By path and under a name of our own: a bare `flows` on sys.path could be somebody else's.
    name = f"rlback_flows.{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
