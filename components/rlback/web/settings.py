"""What whoever runs a console may set: `console.yaml` in the project's directory, read when it starts.

    people_per_address: 200     # how many people's worth of requests one address may send, which an office or a proxy shares
    connections: 1000           # open at once; a browser holds up to six, so a good hundred and sixty people loading pages
    inputs: [/srv/preferences]  # directories, beside data/, whose files a campaign started in the browser may read
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlback.config import read_tree
from rlback.errors import ConfigError
from rlback.project import Project

FILE = "console.yaml"
REMEDY = "see docs/console.md, `Limits`"
#: Open files that are no connections: the database's (three for each of its 50), logs, libraries.
OWN_FILES = 256


class Settings(BaseModel):
    """The settings, with what holds where the file does not say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    people_per_address: Annotated[int, Field(ge=1, le=100_000)] = 200
    connections: Annotated[int, Field(ge=10, le=100_000)] = 1_000
    inputs: Annotated[tuple[str, ...], Field(max_length=50)] = ()

    def input_roots(self, project: Project) -> list[Path]:
        """The directories that inputs may lie in, links followed."""
        return [project.data.resolve(), *((project.root / name).resolve() for name in self.inputs)]


def read_settings(root: Path) -> Settings:
    """The settings of a project's console; the defaults where it has no such file.

    Raises:
        ConfigError: names the file, the key and what is wrong.
    """
    path = root / FILE
    if not path.exists():
        return Settings()
    tree = read_tree(path, "settings file", "docs/console.md")
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: `{where}`: {first['msg']}", remedy=REMEDY) from None


def allow_connections(connections: int) -> None:
    """Raises this process's limit of open files as far as so many connections need.

    Raises:
        ConfigError: the system allows fewer, so that the console would fail before it refuses.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OWN_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ConfigError(
            f"{connections} connections need {wanted} open files, and this system allows a process {hard}",
            remedy=f"raise that (`ulimit -Hn`), or set connections: {max(10, hard - OWN_FILES)} in {FILE}",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
