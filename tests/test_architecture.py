"""Imports go downwards, and each outside tool is imported in its own room only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

PACKAGE = ROOT / "components" / "rlback"
HOME = {
    "prefect": ("flows/", "components/rlback/orchestration/"),
    "mlflow": ("components/rlback/registry/",),
    "dvc": ("components/rlback/data/",),
    "dvc_data": ("components/rlback/data/",),
    "boto3": ("components/rlback/data/",),
    "trl": (),  # the peer that tests and benchmarks compare with, never a part of the product
}
#: A room may import rooms of a lower or its own level.
LEVEL = {
    "records": 0, "errors": 0, "settings": 0, "disks": 1, "trees": 1, "config": 1, "maths": 1, "ledger": 2, "project": 2,
    "models": 2, "worlds": 2, "environments": 2, "data": 2, "training": 3, "labelling": 3, "evaluation": 3, "accounts": 3,
    "notices": 3, "registry": 3, "campaign": 4, "studies": 4, "orchestration": 5, "web": 5,
    "cli": 6, "__main__": 7, "__init__": 0,
}  # fmt: skip


def imports(path: Path, *, top_level_only: bool = False) -> list[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return found


def sources() -> list[Path]:
    return sorted([*PACKAGE.rglob("*.py"), *(ROOT / "flows").rglob("*.py")])


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_each_tool_is_imported_in_its_own_room_only():
    """prefect, mlflow, dvc and boto3 stay where they belong."""
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources()
        for name in imports(path)
        for tool, home in HOME.items()
        if name.split(".")[0] == tool and not str(path.relative_to(ROOT)).startswith(home)
    ]
    assert wrong == []


def test_rooms_import_downwards_only():
    """No room imports one above it."""
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        here = LEVEL[room(path)]
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "rlback" and len(parts) > 1 and LEVEL[parts[1]] > here:
                wrong.append(f"{path.relative_to(PACKAGE)} -> {name}")
    assert wrong == []


def test_studies_stand_beside_campaigns():
    """A study measures: it reaches no registry, no ledger and no campaign, and so nothing that could be deployed."""
    far = ("mlflow", "dvc", "prefect", "rlback.campaign", "rlback.registry", "rlback.ledger", "rlback.labelling")
    wrong = [
        f"{path.name}: {name}"
        for path in (PACKAGE / "studies").rglob("*.py")
        for name in imports(path)
        if any(name == tool or name.startswith(f"{tool}.") for tool in far)
    ]
    assert wrong == []


def test_no_pickle_is_loaded_anywhere():
    """Neither pickle nor torch.load nor torch.save appears in the product."""
    wrong = [
        str(path)
        for path in sources()
        if "pickle" in [name.split(".")[0] for name in imports(path)] or "torch.load(" in path.read_text()
        or "torch.save(" in path.read_text()
    ]  # fmt: skip
    assert wrong == []


def test_light_commands_import_no_heavy_library():
    """Help, status and gate work without torch, transformers, mlflow, prefect and dvc in memory."""
    code = (
        "import sys, rlback.cli.parser as p; p.build(); import rlback.cli.people, rlback.ledger.store, "
        "rlback.labelling.batches, rlback.registry.gates; "
        "print([m for m in ('torch', 'transformers', 'mlflow', 'prefect', 'dvc') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_stay_short():
    """A file of the product has at most 400 lines."""
    long = {str(p.relative_to(ROOT)): n for p in sources() if (n := len(p.read_text().splitlines())) > 400}
    assert long == {}
