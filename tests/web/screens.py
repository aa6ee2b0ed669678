"""Pictures of every page, wide (1280) and narrow (360), in docs/screens: `python -m tests.web.screens [DIR [PROJECT]]`.

Names of pages after that: only those. With `--full` whole pages, light and dark, to look for faults. Makes a project as
the tests do, serves its console on loopback and looks at it with Chromium.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlback.labelling.checks import GoldItem
from rlback.records import Comparison, Completion
from tests.conftest import ROOT

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
WIDTHS = {"wide": (1280, 860), "narrow": (360, 740)}
PAGES = {
    "home": "/", "label": "/label/helper.r1?practice=skip", "practice": "/label/helper.r1/practice",
    "gate": "/gates/writer.r3", "gate-decided": "/gates/writer.r2",
    "timeline": "/policies/writer", "roll-back": "/policies/writer/1/roll-back", "checkpoint": "/checkpoints/writer@2",
    "ledger": "/ledger", "batches": "/batches", "batch": "/batches/helper.r0", "users": "/users", "account": "/account",
    "guideline": "/guideline", "runs": "/runs", "deploy": "/policies/writer/2/deploy",
    "break-glass": "/gates/writer.r3/break-glass", "gates": "/gates", "start": "/campaigns/new",
    "start-plan": "/campaigns/new?config=demo.yaml&seed=3&set=labels.cross%3D40&plan=1",
}  # fmt: skip
#: Looked at once writer@2 is deployed.
DEPLOYED = {"withdraw": "/policies/writer/2/withdraw"}


GUIDELINE = """Which of the two would you rather have been sent?

1. Harm first: what would hurt somebody loses, however well it is written.
2. Then truth, then help.
3. Equal is an answer. So is both bad: say with a flag what is wrong.
4. Skip what you cannot judge, and say why.
Ask Mara when in doubt."""


PRACTICE = [
    GoldItem(
        Comparison(
            "\n\nHuman: Is tap water safe here?\n\nAssistant: Mostly.\n\nHuman: And for a baby?\n\nAssistant:",
            Completion("Yes. Let it run until it is cold, and boil it for the first months.", (), True),
            Completion("Babies like juice better.", (), True), "gold",
        ),
        "a", "The second does not answer the question.",
    )
]  # fmt: skip


@contextmanager
def serving(project: Any) -> Iterator[str]:
    """The console of a project on a free port of this machine; its address without the slash."""
    import uvicorn

    from rlback.web.app import make_app

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = uvicorn.Config(
        make_app(project, port=port, setup_code="the-code"), host="127.0.0.1", port=port, log_level="warning",
        lifespan="off", ws="none", access_log=False,
    )  # fmt: skip
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(5)


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS, headless=True)
        yield browser
        browser.close()


def sign_in(page: Any, address: str, name: str, password: str) -> None:
    """Through the form, by keyboard."""
    page.goto(f"{address}/sign-in")
    page.locator("input[name=name]").focus()
    page.keyboard.type(name)
    page.keyboard.press("Tab")
    page.keyboard.type(password)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{address}/")


def take(
    project: Any, directory: Path, who: tuple[str, str] | None, only: list[str], full: bool = False,
    pages: dict[str, str] | None = None,
) -> None:  # fmt: skip
    """Saves a picture of each page at each width, as somebody (name, password); says where a page is wider than it.

    Without anybody, of the page that makes the first admin. `full`: whole pages, light and dark at both widths.
    """
    directory.mkdir(parents=True, exist_ok=True)
    usual = {"wide": "light", "narrow": "dark"}
    with serving(project) as address, chromium() as browser:
        for size, (width, height) in WIDTHS.items():
            for colours in ("light", "dark") if full else (usual[size],):
                context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=colours)
                page, inside = context.new_page(), who is None
                shown = pages or ({"sign-in": "/sign-in", **PAGES} if who else {"set-up": "/setup?code=the-code"})
                for title, path in shown.items():
                    if only and title not in only:
                        continue
                    if who and not inside and path != "/sign-in":
                        sign_in(page, address, *who)
                        inside = True
                    page.goto(address + path)
                    page.wait_for_timeout(150)
                    wide = page.evaluate("document.documentElement.scrollWidth")
                    if wide > width:
                        print(f"{title} is {wide} px wide at {width}", file=sys.stderr)
                    file = directory / f"{title}-{size}{f'-{colours}' if full else ''}.png"
                    page.screenshot(path=file, animations="disabled", full_page=full)
                    _shrink(file)
                context.close()


def _shrink(file: Path) -> None:
    """64 colours are enough for pages, and make a third of the file."""
    from PIL import Image

    with Image.open(file) as image:
        small = image.convert("RGB").quantize(64, dither=Image.Dither.NONE)
    small.save(file, optimize=True)


def main(directory: Path, made: Path | None, only: list[str], full: bool = False) -> None:
    """Makes the project unless one is given, and takes the pictures."""
    from rlback.accounts.users import add_user, count_users
    from rlback.labelling.checks import add_practice
    from rlback.labelling.guidelines import add_guideline
    from rlback.project import make_project
    from rlback.records import Actor
    from rlback.registry.deployments import deploy
    from rlback.registry.mlflow_store import MlflowStore
    from rlback.registry.operations import get_version
    from rlback.registry.quarantine import put_in
    from tests.orchestration.fake_prefect import fake_prefect
    from tests.web.stories import two_campaigns

    mara = Actor("mara", "human")
    with tempfile.TemporaryDirectory() as temporary:
        project = make_project(made) if made else two_campaigns(Path(temporary) / "p")
        _add_configurations(project.configs)
        if not count_users(project.store):
            take(project, directory, None, only, full)
            roles = ["annotator", "approver", "operator", "auditor", "emergency", "admin"]
            add_user(project.store, "mara", "correct horse battery", roles, mara)
            add_user(project.store, "eve", "correct horse battery", ["approver"], mara)
            add_user(project.store, "bea", "correct horse battery", ["annotator"], mara)
            add_guideline(project.store, GUIDELINE, mara, after=0)
            put_in(project.store, "cy", mara, "answers faster than the texts can be read", batch="helper.r0")
            with project.store.transaction() as transaction:
                add_practice(transaction, "helper", PRACTICE, "0" * 64)
        with fake_prefect() as prefect:
            os.environ["PREFECT_API_URL"] = prefect.url
            failed = "Flow run encountered an exception: StageError: the disk of this project is full"
            prefect.add("helper", "COMPLETED", "AwaitingLabels", "helper.r1: rlback label helper")
            prefect.add("writer", "FAILED", "Failed", failed)
            prefect.add(None, "SCHEDULED", "Scheduled", flow="f2")
            prefect.runs[-1]["expected_start_time"] = "2099-01-01T00:00:00+00:00"
            prefect.logs = [{"message": failed}]
            take(project, directory, ("mara", "correct horse battery"), only, full)
            if not made:
                deploy(project, MlflowStore(project.root), get_version(project.store, "writer", 2), mara, "best so far")
                take(project, directory, ("mara", "correct horse battery"), only, full, DEPLOYED)


def _add_configurations(home: Path) -> None:
    """Three that the checkout has, and one with a slip in it."""
    home.mkdir(exist_ok=True)
    for name in ("demo.yaml", "table.yaml", "segments.yaml"):
        (home / name).write_text((ROOT / "configs" / name).read_text())
    (home / "with-a-slip.yaml").write_text((ROOT / "configs" / "demo.yaml").read_text().replace("rounds:", "roundz:"))


if __name__ == "__main__":
    full = "--full" in sys.argv
    rest = [word for word in sys.argv[1:] if word != "--full"]
    main(Path(rest[0]) if rest else ROOT / "docs" / "screens", Path(rest[1]) if len(rest) > 1 else None, rest[2:], full)
