"""The set-up script: what it says where pip fails."""

from __future__ import annotations

import importlib.util
import os
from types import ModuleType

import pytest

from tests.conftest import ROOT


@pytest.fixture
def install(tmp_path, monkeypatch) -> ModuleType:
    """infra/install.py as a module, its log in a directory of the test's own."""
    spec = importlib.util.spec_from_file_location("rlback_install", ROOT / "infra" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "LOG", tmp_path / "install.log")
    return module


@pytest.mark.parametrize(
    ("package", "constrained", "said"),
    [
        ("torch", False, "PIP_EXTRA_INDEX_URL"), ("torch", True, "PIP_EXTRA_INDEX_URL"),
        ("sqlalchemy", False, "set PIP_INDEX_URL to one that has"),
    ],
)  # fmt: skip
def test_where_pip_finds_no_wheel_the_setting_is_named(install, monkeypatch, capsys, tmp_path, package, said, constrained):
    """pip itself, asked for a package that an empty directory does not have; with a pin pip words it differently."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    pins = tmp_path / "constraints.txt"
    pins.write_text(f"{package}==0.0.0.1\n" if constrained else "")
    asked = ["--no-index", "-c", str(pins), "--ignore-installed", package]
    monkeypatch.setattr(install, "STEPS", ((package, asked),))
    assert install.main() != 0
    told = capsys.readouterr().err
    assert "The set-up failed" in told
    assert said in told
