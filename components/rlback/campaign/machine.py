"""The campaign as a state machine: `start` records one, `advance` carries it on.

`advance` is level-triggered. It reads what is recorded, runs the next stage, records its output, and goes on
until a person is needed or nothing is left. It may be called at any time, by anyone, twice, or after a kill at
any instant; the outcome is the same.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import func, insert, select, update

from rlback.campaign.context import Context, StageResult, load_campaign, load_recorded
from rlback.campaign.foreign_base import describe_base
from rlback.campaign.hardware import settle_precision
from rlback.campaign.plan import Finished, Recorded, Step, next_step
from rlback.campaign.progress import ProgressFile
from rlback.campaign.sources import file_sha256
from rlback.campaign.startable import require_startable
from rlback.campaign.starting import needed
from rlback.config import CAMPAIGN_NAME, CampaignConfig
from rlback.errors import ConfigError, StageError
from rlback.labelling.batches import open_count, stands
from rlback.ledger.console_tables import starts
from rlback.ledger.store import Transaction, now
from rlback.ledger.tables import campaigns, stages
from rlback.project import LEAST_FREE_BYTES, Project
from rlback.records import SYSTEM, Actor, CheckpointRef, canonical_json, digest_of
from rlback.registry.gates import expire, find_gate, open_gates
from rlback.registry.mirroring import require_mirrored
from rlback.registry.mlflow_store import MlflowStore
from rlback.registry.operations import list_versions, reconcile
from rlback.worlds import load_world


@dataclass(frozen=True)
class Waiting:
    """A campaign that needs a person: `what` they do, on what `subject`, and the command that does it."""

    what: Literal["labels", "approval"]
    subject: str
    count: int
    command: str


Next = Step | Waiting | Finished


def start(
    project: Project, config: CampaignConfig, actor: Actor, *, name: str | None = None, inputs: dict[str, Path] | None = None,
    key: str = "", permit: Callable[[Transaction], None] | None = None,
) -> str:
    """Records a new campaign and returns its name; nothing is trained yet.

    Without a name the configuration's is taken, with a number behind it where it is in use. What is recorded has the
    precision that was settled on for `auto`. A request with the same `key` again is the same campaign. `permit` may
    refuse inside the transaction.

    Raises:
        ConfigError: an input or the device is missing, the name is in use, or the machine is too small for it.
        StageError: the key belongs to a request for something else.
        CheckpointError: there is no model that can be read at `base.model`.
    """
    if name is not None:
        check_name(name)
    described = describe_inputs(project, config, inputs or {})
    require_startable(project, config)
    config = settle_precision(config)
    tree = config.model_dump(mode="json")
    request = digest_of([name, tree, described])
    with project.store.transaction() as transaction:
        if permit is not None:
            permit(transaction)
        if key and (earlier := _started_by(transaction, key, request)) is not None:
            return earlier
        chosen = _chosen(name, config, set(transaction.execute(select(campaigns.c.name)).scalars()))
        transaction.execute(
            insert(campaigns).values(
                name=chosen, policy=config.policy, config=canonical_json(tree), config_digest=digest_of(tree),
                inputs=canonical_json(described), created=now(), started_by=actor.name, state="active",
                finish_reason="",
            )
        )  # fmt: skip
        transaction.event(
            "campaign.started", chosen, actor,
            {"policy": config.policy, "config": digest_of(tree), "seed": config.seed, "inputs": described},
        )  # fmt: skip
        if key:
            transaction.execute(insert(starts).values(key=key, campaign=chosen, request=request))
    return chosen


def _started_by(transaction: Transaction, key: str, request: str) -> str | None:
    row = transaction.execute(select(starts).where(starts.c.key == key)).first()
    if row is None:
        return None
    if row.request != request:
        raise StageError(
            f"this request has started campaign {row.campaign} already, and asks for something else now",
            remedy="open the page that starts a campaign anew",
        )
    return str(row.campaign)


def check_name(name: str) -> None:
    """Raises ConfigError unless `name` is one for a campaign: it becomes part of paths."""
    if re.fullmatch(CAMPAIGN_NAME, name) is None:
        raise ConfigError(
            f"{name[:60]!r} is no name for a campaign",
            remedy="take lower-case letters, digits and hyphens, at most 41, a letter first",
        )


def describe_inputs(project: Project, config: CampaignConfig, given: dict[str, Path]) -> dict[str, dict[str, str]]:
    """Path and SHA-256 of everything a campaign reads from outside: the files given, and the model at `base.model`.

    Raises:
        ConfigError, CheckpointError: see `start`.
    """
    if config.source.world is not None:
        load_world(config.source.world)  # now, and not in a stage of a campaign that is on record already
    if config.source.world is None and "pairs" not in given:
        raise ConfigError(
            "this configuration has no world, so it needs a file of preferences", remedy="add --pairs PATH"
        )
    if needed(config).get("text") and "text" not in given:
        raise ConfigError("base.text_share is 1, but no text is given", remedy="add --text PATH, or set base.text_share below 1")
    described = {key: {"path": str(path.resolve()), "sha256": file_sha256(path)} for key, path in given.items()}
    if config.base.model is not None:
        described["base"] = describe_base(project.root, config.base.model)
    return described


def name_for(project: Project, config: CampaignConfig, name: str | None) -> str:
    """What a campaign that was started now would be called; raises ConfigError where `name` is in use."""
    return _chosen(name, config, {row.name for row in project.store.rows(select(campaigns.c.name))})


def _chosen(name: str | None, config: CampaignConfig, taken: set[str]) -> str:
    if name is not None and name in taken:
        raise ConfigError(
            f"there is a campaign {name} already", remedy=f"carry it on with `rlback advance {name}`, or choose another"
        )
    number, chosen = 1, name or config.name
    while chosen in taken:
        number += 1
        chosen = f"{config.name}-{number}"
    return chosen


def config_of(row: Any) -> CampaignConfig:
    """The configuration a campaign was started with."""
    return CampaignConfig.model_validate(json.loads(row.config))


def what_next(project: Project, name: str) -> Next:
    """What a campaign does next, or whom it waits for; changes nothing."""
    row = load_campaign(project, name)
    config, recorded = config_of(row), load_recorded(project, name)
    if row.state != "active":
        return Finished(row.finish_reason)
    due = next_step(config, recorded)
    if isinstance(due, Finished):
        return due
    if due.stage == "label" and config.labels.annotators == "human":
        batch = recorded[(due.round, "sample", due.attempt)]["batch"]
        left = open_count(project.store, batch)
        if left:
            return Waiting("labels", batch, left, f"rlback label {name}")
    if due.stage == "decide" and config.gate.approver == "human":
        gate = find_gate(project.store, recorded[(due.round, "evaluate", due.attempt)]["gate"])
        if gate.state == "open":
            return Waiting("approval", gate.id, 1, f"rlback gate show {gate.id}")
    return due


@contextmanager
def holding(project: Project, name: str) -> Iterator[None]:
    """Holds a campaign, so that one process at a time carries it on."""
    load_campaign(project, name)
    with project.lock(f"campaign-{name}", f"campaign {name}"):
        yield


def run_step(project: Project, name: str, step: Step, mirror: MlflowStore) -> dict[str, Any]:
    """Runs one stage and records it; the caller holds the campaign.

    A stage that another campaign ran with the same inputs is taken over from there.
    """
    row = load_campaign(project, name)
    recorded = load_recorded(project, name)
    if step.key in recorded:
        return recorded[step.key]
    least = _least_space(project, recorded, step)
    project.require_space(least)
    with project.naming_full_disk(least):
        return _run_and_record(project, row, recorded, step, mirror)


def _least_space(project: Project, recorded: Recorded, step: Step) -> int:
    """A stage that trains keeps two states of weights and both Adam moments, and writes a checkpoint."""
    if step.stage not in ("fit_reward", "optimise"):
        return LEAST_FREE_BYTES
    weights = project.absolute(recorded[(0, "base", 1)]["location"]) / "model.safetensors"
    return LEAST_FREE_BYTES + (7 * weights.stat().st_size if weights.is_file() else 0)


def _run_and_record(project: Project, row: Any, recorded: Recorded, step: Step, mirror: MlflowStore) -> dict[str, Any]:
    name = str(row.name)
    work = project.work(name, step.round, step.stage, step.attempt)
    config = config_of(row)
    progress = ProgressFile(project.state / "progress" / f"{name}.json", config, step)
    context = Context(
        project, name, row.policy, config, json.loads(row.inputs), recorded, step, row.kept_version, work,
        progress.report, mirror, progress.part,
    )  # fmt: skip
    began = time.monotonic()
    result = _taken_over(context) or _stage(step.stage)(context)
    seconds = time.monotonic() - began
    with project.store.transaction() as transaction:
        result.record(transaction)
        transaction.execute(
            insert(stages).values(
                campaign=name, round=step.round, stage=step.stage, attempt=step.attempt,
                output=canonical_json(result.output), output_digest=digest_of(result.output),
                cache_key=result.cache_key, finished=now(), seconds=seconds,
            )
        )  # fmt: skip
        transaction.event(
            "stage.done", name, SYSTEM,
            {"round": step.round, "stage": step.stage, "attempt": step.attempt, "output": digest_of(result.output),
             "cache_key": result.cache_key},
        )  # fmt: skip
    shutil.rmtree(work, ignore_errors=True)
    progress.done(seconds)
    if step.stage in ("base", "optimise", "settle"):
        reconcile(project, mirror, row.policy)
    return result.output


def finish(project: Project, name: str, reason: str) -> None:
    """Records that a campaign has nothing left to do; again is no change."""
    with project.store.transaction() as transaction:
        changed = transaction.execute(
            update(campaigns)
            .where(campaigns.c.name == name, campaigns.c.state == "active")
            .values(state="finished", finish_reason=reason)
        ).rowcount
        if changed:
            transaction.event("campaign.finished", name, SYSTEM, {"reason": reason})


def prepare(project: Project, name: str, mirror: MlflowStore | None = None) -> None:
    """Makes the registry ready and mends what a kill may have left between the ledger and its mirror."""
    project.store.require_signed()
    mirror = mirror or MlflowStore(project.root)
    policy = load_campaign(project, name).policy
    with project.naming_full_disk():
        require_mirrored(project, mirror, policy)
        mirror.prepare()
        project.sweep_work(name, load_recorded(project, name))
        reconcile(project, mirror, policy)


def mend_mirrors(project: Project, but: Collection[str] = ()) -> list[str]:
    """Moves MLflow's aliases to where the ledger has them, of every policy without an active campaign among `but`.

    Those of a carried-on campaign's policy are mended by `prepare`; a deploy or rollback that was killed between the two may
    concern a policy with no active campaign. Returns what was moved, a line each.
    """
    carried_on = {load_campaign(project, name).policy for name in but}
    policies = sorted({version.policy for version in list_versions(project.store)} - carried_on)
    if not policies:
        return []
    project.store.require_signed()
    mirror = MlflowStore(project.root)
    for policy in policies:
        require_mirrored(project, mirror, policy)
    with project.naming_full_disk():
        return [line for policy in policies for line in reconcile(project, mirror, policy)]


def gate_of(project: Project, name: str, step: Step) -> str:
    """The gate that an `evaluate` step opened."""
    return str(load_recorded(project, name)[(step.round, "evaluate", step.attempt)]["gate"])


def advance(
    project: Project, name: str, *, mirror: MlflowStore | None = None, before: Callable[[Step], None] | None = None
) -> Waiting | Finished:
    """Carries a campaign on until it waits for a person or is finished, in this process.

    `before` is called with each step that is about to run.
    """
    mirror = mirror or MlflowStore(project.root)
    with holding(project, name):
        prepare(project, name, mirror)
        while isinstance(due := what_next(project, name), Step):
            if before is not None:
                before(due)
            run_step(project, name, due, mirror)
        if isinstance(due, Finished):
            finish(project, name, due.reason)
    return due


def active_campaigns(project: Project) -> list[str]:
    """Campaigns that are not finished, oldest first."""
    query = select(campaigns.c.name).where(campaigns.c.state == "active").order_by(campaigns.c.created)
    return [row.name for row in project.store.rows(query)]


def stop(project: Project, name: str, actor: Actor, reason: str) -> None:
    """Ends an active campaign for good; what is recorded stays, and its open gates take no decision any more."""
    load_campaign(project, name)
    with project.store.transaction() as transaction:
        changed = transaction.execute(
            update(campaigns)
            .where(campaigns.c.name == name, campaigns.c.state == "active")
            .values(state="stopped", finish_reason=f"stopped by {actor.name}: {reason}")
        ).rowcount
        if not changed:
            raise StageError(f"campaign {name} is not active")
        transaction.event("campaign.stopped", name, actor, {"reason": reason})
        for gate in open_gates(project.store):
            if gate.campaign == name:
                expire(transaction, gate.id, name, actor, "the campaign was stopped")


def label_count(project: Project, name: str) -> int:
    """How many labels a campaign has been given so far (revisions count once, what was taken back not at all)."""
    from rlback.ledger.tables import batches, comparisons, labels

    query = (
        select(func.count())
        .select_from(labels)
        .join(comparisons, labels.c.comparison == comparisons.c.id)
        .join(batches, comparisons.c.batch == batches.c.id)
        .where(batches.c.campaign == name, stands())
    )
    return int(project.store.rows(query)[0][0])


def _stage(name: str) -> Callable[[Context], StageResult]:
    from rlback.campaign import stages_gate, stages_labels, stages_optimise, stages_train

    return {
        "data": stages_labels.run_data,
        "base": stages_train.run_base,
        "sample": stages_labels.run_sample,
        "label": stages_labels.run_label,
        "snapshot": stages_labels.run_snapshot,
        "fit_reward": stages_train.run_fit_reward,
        "optimise": stages_optimise.run_optimise,
        "evaluate": stages_gate.run_evaluate,
        "decide": stages_gate.run_decide,
        "settle": stages_gate.run_settle,
    }[name]


def _taken_over(context: Context) -> StageResult | None:
    """The base policy of another campaign with the same inputs, where there is one."""
    if context.step.stage != "base" or context.config.base.model is not None:
        return None
    from rlback.campaign.stages_train import base_cache_key, register_base

    key = base_cache_key(context)
    row = context.project.store.first(select(stages.c.output).where(stages.c.cache_key == key).limit(1))
    if row is None:
        return None
    held = json.loads(row.output)
    from rlback.models.manifest import verify_checkpoint

    location = context.project.absolute(held["location"])
    verify_checkpoint(location, held["digest"])
    ref = CheckpointRef(held["digest"], "policy", held["model_id"], str(location))
    return register_base(context, ref, held["metrics"], key)
