"""`rlback console` and `rlback users` at the terminal."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from rlback.__main__ import main


@pytest.fixture
def here(project, monkeypatch):
    """The terminal stands in an empty project."""
    monkeypatch.chdir(project.root)
    monkeypatch.delenv("RLBACK_PROJECT", raising=False)
    return project


def typed(monkeypatch, text):
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_the_first_user_is_an_admin_and_later_ones_what_they_are_made(here, monkeypatch, capsys):
    """Add, list, change, and what is refused on the way."""
    typed(monkeypatch, "correct horse battery\n")
    assert main(["users", "add", "ann", "--role", "annotator"]) == 2
    assert "admin" in capsys.readouterr().err
    for name, role in (("root", "admin"), ("ann", "annotator")):
        typed(monkeypatch, "correct horse battery\n")
        assert main(["users", "add", name, "--role", role, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["user"] == name
    assert main(["users", "change", "ann", "--role", "approver", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["roles"] == ["approver"]
    assert main(["users", "change", "ann", "--disable"]) == 2
    assert main(["users", "change", "ann", "--disable", "--reason", "left"]) == 0
    capsys.readouterr()
    assert main(["users", "list"]) == 0
    assert capsys.readouterr().out.splitlines() == ["ann  approver  disabled", "root  admin  active"]
    typed(monkeypatch, "short\n")
    assert main(["users", "add", "bob", "--role", "annotator"]) == 2


def test_other_machines_are_let_in_only_once_there_are_users(here, capsys):
    """Listening on every address without accounts is refused before a port is opened."""
    assert main(["console", "--host", "0.0.0.0"]) == 2
    assert "no users" in capsys.readouterr().err


def test_the_console_starts_answers_and_stops_without_torch(here):
    """A real process: it prints its address, serves it, loads nothing heavy, and ends on a signal."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = (
        "import sys, atexit; from rlback.__main__ import main;"
        "atexit.register(lambda: print([m for m in ('torch', 'transformers', 'mlflow', 'prefect', 'dvc') if m in sys.modules]));"
        f"sys.exit(main(['console', '--port', '{port}', '--json']))"
    )
    started = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        told = json.loads(started.stdout.readline())
        assert told["users"] == 0
        assert told["setup"].startswith(f"http://127.0.0.1:{port}/setup?code=")
        for _ in range(100):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
                    assert json.load(answer) == {"status": "ok"}
                break
            except OSError:
                time.sleep(0.05)
        else:
            pytest.fail("the console does not answer")
    finally:
        started.send_signal(signal.SIGINT)
        rest, _ = started.communicate(timeout=20)
    assert rest.strip() == "[]"
