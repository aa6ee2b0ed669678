"""Stages that make and freeze evidence: data, sample, label, snapshot."""

from __future__ import annotations

import random
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from rlback.campaign.context import Context, StageResult
from rlback.data import snapshot
from rlback.disks import replacing
from rlback.errors import ConfigError
from rlback.labelling.batches import (
    add_batch,
    batch_id,
    counting_labels,
    labels_digest,
    record_simulated,
    stored,
    write_labels,
)
from rlback.labelling.checks import GoldFile, Rules, add_checks, add_practice, agreed_before, read_gold, with_checks
from rlback.labelling.quarantines import newest_row
from rlback.labelling.slots import rebuild
from rlback.ledger.store import Transaction
from rlback.ledger.tables import batches
from rlback.records import SYSTEM, Actor, Comparison, seed_of

if TYPE_CHECKING:
    from rlback.worlds.annotators import SimulatedAnnotator


def run_data(context: Context) -> StageResult:
    """Makes the source data, or reads and checks the user's, and freezes it as a data version."""
    return StageResult(context.source.make_data(context.work))


def run_sample(context: Context) -> StageResult:
    """Draws completions on fresh prompts and makes the batch of comparisons to be labelled."""
    from rlback.training.threads import use_threads

    use_threads(context.config.threads)
    labels, round_ = context.config.labels, context.step.round
    if round_ == 0:
        base = context.load_policy(context.base)
        prompts = context.source.prompts("train", labels.initial, context.seed("prompts"))
        items = _pairs_within(context, base, prompts, "base")
    else:
        candidate, start = context.load_policy(context.candidate), context.load_policy(context.start)
        prompts = _fresh_prompts(context, labels.cross + labels.inside)
        items = _cross(context, candidate, start, prompts[: labels.cross])
        items += _pairs_within(context, candidate, prompts[labels.cross :], "inside")
    id_ = batch_id(context.campaign, round_, context.step.attempt)
    regular, gold = len(items), _gold(context)
    pool = gold.items[labels.practice :] if gold else agreed_before(context.project.store, context.campaign)
    rules = Rules(labels.overlap, labels.gold_share, labels.repeat_share)
    items, hidden = with_checks(id_, items, pool if labels.gold_share else (), rules, context.seed("checks"))

    def record(transaction: Transaction) -> None:
        shares = (labels.gold_share, labels.repeat_share)
        add_batch(
            transaction, context.campaign, round_, context.step.attempt, items, labels.annotators, SYSTEM, labels.overlap, shares
        )
        add_checks(transaction, context.campaign, id_, hidden)
        if gold:
            add_practice(transaction, context.campaign, gold.items[: labels.practice], gold.sha256)
        if labels.annotators == "human":
            rebuild(transaction, id_)

    too_long = context.source.prompts_too_long()
    watched = {"checks": len(hidden), "gold_file": gold.sha256 if gold else None} if hidden or gold else {}
    return StageResult({"batch": id_, "size": regular, **watched, **({"prompts_too_long": too_long} if too_long else {})}, record)


def _gold(context: Context) -> GoldFile | None:
    """The configured file of comparisons with known answers, which lies in the project."""
    name, root = context.config.labels.gold_file, context.project.root.resolve()
    if name is None:
        return None
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise ConfigError(f"labels.gold_file: {name} lies outside the project", remedy="copy the file into it")
    return read_gold(path)


def _fresh_prompts(context: Context, n: int) -> list[str]:
    """Gate prompts that no earlier batch of this campaign used, as far as the source has so many."""
    earlier = sum(stage == "sample" and round_ >= 1 for round_, stage, _ in context.recorded)
    # One fixed order per campaign, read on from where the last batch stopped.
    order = context.source.prompts("gate", n * (earlier + 1), seed_of(context.config.seed, "gate prompts"))
    return order[-n:]


def _cross(context: Context, candidate, start, prompts: list[str]) -> list[Comparison]:  # type: ignore[no-untyped-def]
    ours = context.complete(candidate, prompts, seed=context.seed("candidate"))
    theirs = context.complete(start, prompts, seed=context.seed("start"))
    return [Comparison(p, a, b, "cross") for p, a, b in zip(prompts, ours, theirs, strict=True)]


def _pairs_within(context: Context, policy, prompts: list[str], source) -> list[Comparison]:  # type: ignore[no-untyped-def]
    if not prompts:
        return []
    drawn = context.complete(policy, prompts, seed=context.seed(source), per_prompt=2)
    return [Comparison(p, drawn[2 * i], drawn[2 * i + 1], source) for i, p in enumerate(prompts)]


def run_label(context: Context) -> StageResult:
    """Lets simulated annotators label the batch, or closes a batch that people have labelled."""
    id_ = context.output("sample", attempt=context.step.attempt)["batch"]
    store = context.project.store
    if context.config.labels.annotators == "human":
        given = counting_labels(store, id_)
        return StageResult(_labelled(id_, len(given), labels_digest(given)))

    from rlback.labelling.batches import Label

    annotator = simulated_annotator(context)
    rng = random.Random(context.seed("sides"))
    verdicts = [
        (item.id, annotator.verdict(item.comparison, context.seed(f"verdict {item.position}")), rng.choice("ab"))
        for item in stored(store, id_)
    ]
    digest = labels_digest([Label(i, annotator.name, "simulated", v, left, "") for i, v, left in verdicts])

    def record(transaction: Transaction) -> None:
        record_simulated(
            transaction, context.campaign, id_, Actor(annotator.name, "simulated"), verdicts, annotator.lineage()
        )

    return StageResult(_labelled(id_, len(verdicts), digest), record)


def simulated_annotator(context: Context) -> SimulatedAnnotator:
    """The annotator that a controlled world's labels come from."""
    from rlback.worlds.annotators import SimulatedAnnotator

    settings = context.config.labels
    assert context.source.gold is not None
    return SimulatedAnnotator(
        "sim-annotator",
        context.source.gold,
        temperature=settings.temperature,
        lapse=settings.lapse,
        hype_bias=settings.hype_bias,
        hype=context.source.hype,
    )


def _labelled(batch: str, count: int, digest: str) -> dict[str, object]:
    return {"batch": batch, "labels": count, "digest": digest}


def run_snapshot(context: Context) -> StageResult:
    """Freezes every label of the campaign so far as a data version."""
    directory: Path = context.project.state / "snapshots" / f"{context.campaign}-r{context.step.round}"
    directory.mkdir(parents=True, exist_ok=True)
    store = context.project.store
    ids = [
        row.id
        for row in store.rows(
            select(batches.c.id)
            .where(batches.c.campaign == context.campaign, batches.c.round <= context.step.round)
            .order_by(batches.c.round, batches.c.attempt)
        )
    ]
    # Which labels are in quarantine is settled here; the fit that follows goes by the same row.
    until = newest_row(store)
    with replacing(directory / "labels.jsonl") as beside, beside.open("wb") as handle:
        write_labels(store, ids, handle.write, until=until)
    version = snapshot.freeze(context.project.root, directory)
    output = {**asdict(version), "path": context.project.relative(directory), "batches": ids}
    if until:
        output["quarantine"] = until

    def record(transaction: Transaction) -> None:
        transaction.event(
            "data.frozen", context.campaign, SYSTEM, {"round": context.step.round, "md5": version.md5,
                                                      "sha256": version.sha256},
        )  # fmt: skip

    return StageResult(output, record)
