"""`rlback up` with real processes: what it starts answers, what it ends is gone, what is killed is carried on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlback.__main__ import main
from rlback.accounts.users import add_user
from rlback.campaign import machine
from rlback.campaign.context import load_recorded
from rlback.cli.up import _print
from rlback.config import check_config
from rlback.errors import StageError
from rlback.orchestration.running import running_services, write_services
from rlback.orchestration.schedule import current
from rlback.orchestration.services import Service, Watch
from rlback.orchestration.waking import is_held
from rlback.project import Project
from rlback.records import Actor
from rlback.registry.gates import open_gates
from tests.conftest import changed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def living(root: Path) -> list[int]:
    """Processes that belong to a project, by their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"RLBACK_PROJECT={root}\0".encode() in entry.read_bytes() + b"\0":
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def until(holds, seconds: float, what: str):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.2)
    pytest.fail(f"{what} did not come about in {seconds} s")


@pytest.mark.parametrize("before", [False, True], ids=["new", "there-already"])
def test_a_log_is_its_owners_alone(tmp_path: Path, before: bool):
    """Before the first user is added, the console's log holds the code that makes one; a wide umask changes nothing."""
    log = tmp_path / "logs" / "console.log"
    umask = os.umask(0)
    try:
        if before:
            log.parent.mkdir()
            log.write_text("older")
        service = Service("console", [sys.executable, "-c", "print('setup?code=x')"], dict(os.environ), "", lambda: True, log)
        service.start(tmp_path)
        service.process.wait()
    finally:
        os.umask(umask)
    assert log.read_text() == "setup?code=x\n"
    assert (log.stat().st_mode & 0o777, log.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("RLBACK_PROJECT", str(project.root))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return project


def service(project: Project, name: str, code: str) -> Service:
    environment = {**os.environ, "RLBACK_PROJECT": str(project.root)}
    return Service(name, [sys.executable, "-c", code], environment, "", lambda: True, project.logs / f"{name}.log")


def test_a_taken_port_is_named_with_what_to_do(here, capsys):
    """Before anything is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["up", "--only", "console", "--console-port", str(port)]) == 2
    said = capsys.readouterr().err
    assert f"port {port} for console is taken" in said
    assert "--console-port N" in said
    assert living(here.root) == []


def test_the_first_user_is_asked_for_only_while_there_is_none(here, capsys):
    """Whoever has accounts is not told to make one."""
    addresses = {"console": {"url": "http://127.0.0.1:8700/", "pid": 1}}
    _print(here, addresses, current(here.store), False)
    assert "rlback users add" in capsys.readouterr().out
    add_user(here.store, "root", "correct horse battery", ["admin"], Actor("root", "human"))
    _print(here, addresses, current(here.store), False)
    assert "rlback users add" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--only", "consoul"], "consoul is no service"), (["--only", "worker"], "needs a Prefect server"),
     (["--mlflow-port", "4200"], "cannot both have port 4200"), (["--every", "0"], "is not between")],
)  # fmt: skip
def test_what_cannot_be_started_is_refused(here, capsys, options, said):
    assert main(["up", *options]) == 2
    assert said in capsys.readouterr().err


def test_a_service_that_dies_is_named_and_the_rest_is_ended(here):
    """With the last lines of its log; and what another one started goes too, though it ignores a polite signal."""
    stubborn = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"
    )
    services = [
        service(here, "good", stubborn), service(here, "bad", "import time; print('no disk'); time.sleep(2); raise SystemExit(3)")
    ]  # fmt: skip
    watch = Watch(here, services, lambda name, what: None)
    import rlback.orchestration.services as room

    before, room.END_S = room.END_S, 1.0
    try:
        with pytest.raises(StageError, match=r"(?s)bad ended by itself with status 3.*no disk"):
            watch.start()
            watch.watch()
    finally:
        watch.end()
        room.END_S = before
    until(lambda: living(here.root) == [], 5, "the end of all processes")


def test_what_a_dead_process_noted_counts_no_more(here):
    """The note of a killed `rlback up` names services that are gone."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_services(here, {"prefect": {"url": "http://127.0.0.1:9/"}})
    assert running_services(here) == {"prefect": {"url": "http://127.0.0.1:9/"}}
    noted = here.state / "services.json"
    noted.write_text(noted.read_text().replace(str(os.getpid()), str(ended.pid)))
    assert running_services(here) == {}


def up(project: Project, port: int) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    command = [sys.executable, "-m", "rlback", "up", "--only", "prefect,worker", "--prefect-port", str(port), "--json"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.timeout(900)  # two starts of Prefect; a minute and a half on a quiet machine
def test_a_worker_killed_in_mid_stage_loses_no_campaign(here, capsys):
    """kill -9 in the middle of training, started again: it reaches the gate; a decision starts the next run at once."""
    config = check_config(
        changed(
            name="person", rounds=2, gate={"approver": "human"},
            optimise={"steps": 60, "prompts_per_step": 16, "checkpoint_every": 0},
        ), "tiny",
    )  # fmt: skip
    name, port = machine.start(here, config, Actor("ada", "human")), free_port()
    first = up(here, port)
    line = first.stdout.readline()
    assert line, first.communicate()[1]
    told = json.loads(line)
    progress = here.state / "progress" / f"{name}.json"
    until(lambda: progress.exists() and '"stage": "optimise"' in progress.read_text(), 300, "a training")
    os.kill(told["services"]["worker"]["pid"], signal.SIGKILL)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 8
    assert "worker was ended by signal 9" in said
    until(lambda: set(living(here.root)) <= {os.getpid()}, 10, "the end of all processes")
    assert (1, "optimise", 1) not in load_recorded(here, name)
    second = up(here, port)
    try:
        assert json.loads(second.stdout.readline())["services"]["prefect"]["url"] == f"http://127.0.0.1:{port}/"
        gate = until(lambda: open_gates(here.store), 300, "the gate")[0]
        # The run that opened it still holds the campaign for a moment; only the schedule would start another one then.
        until(lambda: not is_held(here, name), 60, "the end of the run")
        assert main(["gate", "decline", gate.id, "--digest", gate.digest, "--reason", "no better", "--as", "eve"]) == 0
        assert "A flow run that carries it on is started." in capsys.readouterr().out
        until(lambda: (1, "settle", 1) in load_recorded(here, name), 200, "the rollback")
    finally:
        second.send_signal(signal.SIGTERM)
        _, said = second.communicate(timeout=60)
    assert second.returncode == 0, said
    until(lambda: set(living(here.root)) <= {os.getpid()}, 5, "the end of all processes")
