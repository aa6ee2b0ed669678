"""Whether MLflow still holds what the ledger says it does, asked before anything is built on it.

A version is made in MLflow first and then entered in the ledger, so at no moment may the ledger have one that MLflow has
not: its database was lost, or put back from an older copy. Going on would number new versions like old ones.
"""

from __future__ import annotations

from rlback.errors import RegistryError
from rlback.project import Project
from rlback.registry.mlflow_store import MlflowStore
from rlback.registry.operations import list_versions


def require_mirrored(project: Project, mirror: MlflowStore, policy: str) -> None:
    """Refuses to go on where MLflow lacks a version of the policy that the ledger has, or has other weights for it.

    Raises:
        RegistryError: names the version and where MLflow's database should be. Nothing is made there.
    """
    ours = list_versions(project.store, policy)
    if not ours:
        return
    mirror.require_made()
    theirs = {info.version: info.digest for info in mirror.versions(policy)}
    lost = next((version for version in ours if theirs.get(version.version) != version.digest), None)
    if lost is not None:
        found = theirs.get(lost.version)
        what = "no such version" if found is None else f"other weights for it ({found[:12]}…)"
        raise RegistryError(
            f"the ledger has {lost.address} (digest {lost.digest[:12]}…), but MLflow at {mirror.shown} has {what}",
            remedy="restore mlruns/ from a backup that is as new as the ledger; `rlback verify` names all that is missing",
        )
