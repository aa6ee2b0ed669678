"""An outcome reward that is a command: what it is handed, what it may print, and that nothing of it is left."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from rlback.errors import StageError, TrainingDiverged
from rlback.training.scorers import CommandScorer
from tests.training.test_scorers import words
from tests.training.tiny import BOS, A

#: Starts a process that sleeps for long and holds every pipe, and leaves its number in the file `pid`.
CHILD = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
    "open('pid', 'w').write(str(child.pid))\n"
)


def score(code: str, rows: int = 2, directory: Path | None = None, timeout_s: float = 60.0) -> list[float]:
    """What Python code makes of so many completions."""
    scorer = CommandScorer((sys.executable, "-c", code), words, timeout_s=timeout_s, directory=directory)
    return scorer.score([[BOS]] * rows, [[A]] * rows).tolist()


def gone(pid: int) -> bool:
    """Whether a process ends within ten seconds; one that nobody waited for yet has ended."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    return False


def test_a_command_scores_lines_of_json() -> None:
    """It is handed prompt and completion as text, quotes and newlines included, and prints a number each."""
    code = "import json,sys\nfor line in sys.stdin:\n    r = json.loads(line)\n    print(len(r['completion']) + len(r['prompt']))"
    scorer = CommandScorer((sys.executable, "-c", code), lambda ids: '"\n' * len(ids))
    assert scorer.score([[BOS], [BOS]], [[A], [A, A, A]]).tolist() == [4.0, 8.0]


def test_more_than_a_pipe_holds_goes_in_and_out() -> None:
    """Numbers are written while lines are still to come, a lot stands on standard error, and no side waits for the other."""
    code = (
        "import json,sys\nfor line in sys.stdin:\n"
        "    print(' ' * 100 + str(len(json.loads(line)['completion'])), flush=True)\n    print('x' * 200, file=sys.stderr)"
    )
    scorer = CommandScorer((sys.executable, "-c", code), lambda ids: "y" * 500 * len(ids))
    assert scorer.score([[BOS]] * 2000, [[A], [A, A]] * 1000).tolist() == [500.0, 1000.0] * 1000


def test_a_command_need_not_read() -> None:
    """One that prints its numbers without a look at the completions is no broken pipe of ours; nor is its carriage return."""
    scorer = CommandScorer((sys.executable, "-c", r"print('1.5\r\n-2e1\r')"), lambda ids: "y" * 2**20)
    assert scorer.score([[BOS]] * 2, [[A]] * 2).tolist() == [1.5, -20.0]


@pytest.mark.parametrize(
    ("code", "match"),
    [
        ("print(1)", "printed 1 numbers for 2 completions"),
        ("print('one two')", "printed no number on line 1: 'one two'"),
        ("print(); print('7 9')", "printed no number on line 1: it is empty"),
        ("print(7); print('7 9')", "printed no number on line 2: '7 9'"),
        ("print(7); print(9); print()", "printed no number on line 3: it is empty"),
        ("print('1_0'); print(9)", "printed no number on line 1: '1_0'"),
        ("import sys; print('broken', file=sys.stderr); sys.exit(3)", "exits 3: broken"),
        ("import time; time.sleep(30)", "timed out after 1 seconds"),
        ("import os, time; os.close(1); os.close(2); time.sleep(30)", "timed out after 1 seconds"),
    ],
)
def test_a_command_that_fails_is_named(code: str, match: str) -> None:
    """Too few numbers, no numbers, an exit code, no answer in time."""
    with pytest.raises(StageError, match=match):
        score(code, timeout_s=1.0 if "sleep" in code else 60.0)


def test_a_command_that_is_not_there_is_named() -> None:
    """Nor does a null byte, which no program's name has, come through."""
    for word in ("/nonexistent/grader", "a\0b"):
        with pytest.raises(StageError, match="could not be run"):
            CommandScorer((word,), words).score([[BOS]], [[A]])


def test_a_number_that_is_not_finite_stops_the_run() -> None:
    """It is a number, and worth nothing."""
    with pytest.raises(TrainingDiverged, match="gave nan for completion 1"):
        score("print(1); print('nan')")


def test_what_is_quoted_is_cut() -> None:
    """Of a long line and of a long complaint the beginning is shown, without what a terminal would obey."""
    for code in ("print('\\x1b' + 'x' * 50_000)", "import sys; sys.exit('\\x1b' + 'x' * 50_000)"):
        with pytest.raises(StageError, match="x" * 200) as refused:
            score(code)
        assert len(refused.value.message) < 1000
        assert "\x1b" not in refused.value.message.replace(code, "")


def test_a_command_prints_at_most_so_much() -> None:
    """What never stops printing is ended early, and a flood on standard error alone is no harm."""
    began = time.monotonic()
    with pytest.raises(StageError, match=r"printed more than 67,536 bytes and was ended"):
        score("while True: print('1' * 10_000)")
    assert time.monotonic() - began < 30
    assert score("import sys; sys.stderr.write('x' * 3_000_000); print(1); print(2)") == [1.0, 2.0]


def test_a_command_runs_in_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words are read from there, not from where the caller is."""
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "grade.py").write_text("print(3)")
    monkeypatch.chdir(tmp_path)
    scorer = CommandScorer((sys.executable, "grade.py"), words, directory=tmp_path / "project")
    assert scorer.score([[BOS]], [[A]]).tolist() == [3.0]


def test_a_timeout_ends_all_that_was_started(tmp_path: Path) -> None:
    """The command and its child."""
    with pytest.raises(StageError, match="timed out"):
        score(CHILD + "time.sleep(300)", directory=tmp_path, timeout_s=5.0)
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_child_left_behind_is_not_waited_for(tmp_path: Path) -> None:
    """The numbers are there; a child that holds the pipes open costs a moment, not the whole time, and is ended."""
    began = time.monotonic()
    assert score(CHILD + "print(7); print(9)", directory=tmp_path) == [7.0, 9.0]
    assert time.monotonic() - began < 30
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_child_may_finish_what_it_writes() -> None:
    """A shell's last process may end a little after it: what it still writes counts."""
    scorer = CommandScorer(("sh", "-c", "echo 7; (sleep 0.2; echo 9) &"), words)
    assert scorer.score([[BOS]] * 2, [[A]] * 2).tolist() == [7.0, 9.0]


def test_an_interrupted_command_is_ended(tmp_path: Path) -> None:
    """Ctrl-C ends the run at once and leaves neither the command nor its child."""

    def interrupt() -> None:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.05)
        signal.raise_signal(signal.SIGINT)

    was = signal.signal(signal.SIGINT, signal.default_int_handler)  # several workers of a test run ignore it
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            score(CHILD + "time.sleep(300)", directory=tmp_path)
    finally:
        signal.signal(signal.SIGINT, was)
    assert gone(int((tmp_path / "pid").read_text()))
