"""The lineage of a checkpoint as a graph: data, labels, reward models, policies, gates, deployments, and what led to what.

Only reads. Whether a node holds is for `lineage_marks` to say; here damaged rows give fewer edges, never an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import select

from rlback.ledger.store import Store
from rlback.ledger.tables import batches, campaigns, decisions, events, gates, stages, versions
from rlback.registry.operations import Version

KINDS = ("data", "batch", "reward-model", "policy", "gate", "deployment")
_STAGES = ("data", "base", "label", "snapshot", "fit_reward", "optimise")
#: What each stage put out last, by campaign and round.
_Outputs = dict[str, dict[tuple[str, int], dict[str, Any]]]
_SERVING = {"checkpoint.deployed": "deployed", "checkpoint.withdrawn": "taken out of service"}


def graph(store: Store, version: Version, forward: bool = False) -> dict[str, Any]:
    """What stands behind a version, its own gates among it; with `forward` also everything that came of it.

    `nodes`, in the order of KINDS and of rounds, are {id, kind, title, where: path of its page or None, detail, side:
    itself | behind | ahead | both, from: titles of its parents, and what `lineage_marks` finds them by}; `edges` are
    [from, to] by id, both ends among the nodes.
    """
    made = _Graph()
    _read(store, version.policy, made)
    itself = f"policy:{version.address}"
    behind = made.reach([itself, *made.gates_of(itself)], made.parents)
    ahead = made.reach([itself], made.children()) if forward else set()
    shown = []
    for id_, node in made.nodes.items():
        if id_ in behind | ahead:
            side = "both" if id_ in behind & ahead else "behind" if id_ in behind else "ahead"
            titles = [made.nodes[p]["title"] for p in sorted(made.parents[id_], key=list(made.nodes).index)]
            shown.append({**node, "side": "itself" if id_ == itself else side, "from": titles})
    shown.sort(key=lambda node: (KINDS.index(node["kind"]), node["order"]))
    held = {node["id"] for node in shown}
    edges = [[p, node["id"]] for node in shown for p in made.nodes if p in made.parents[node["id"]] and p in held]
    return {"nodes": [{k: v for k, v in node.items() if k != "order"} for node in shown], "edges": edges}


class _Graph:
    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}
        self.parents: dict[str, set[str]] = {}

    def add(
        self, kind: str, name: str, title: str, detail: str, order: tuple[int, ...], where: str | None = None, **keys: Any
    ) -> str:
        id_ = f"{kind}:{name}"
        self.nodes[id_] = {
            "id": id_, "kind": kind, "title": title, "where": where, "detail": detail, "order": order, **keys
        }  # fmt: skip
        self.parents.setdefault(id_, set())
        return id_

    def link(self, parents: Iterable[str | None], child: str) -> None:
        self.parents[child] |= {p for p in parents if p in self.nodes and p != child}

    def children(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {id_: set() for id_ in self.nodes}
        for child, parents in self.parents.items():
            for parent in parents:
                found[parent].add(child)
        return found

    def gates_of(self, policy: str, approved: bool = False) -> list[str]:
        """The gates at which a policy was the candidate."""
        return [
            id_ for id_, node in self.nodes.items()
            if node["kind"] == "gate" and policy in self.parents[id_] and (not approved or node["state"] == "approved")
        ]  # fmt: skip

    def reach(self, seeds: Iterable[str], to: dict[str, set[str]]) -> set[str]:
        found: set[str] = set()
        due = [s for s in seeds if s in self.nodes]
        while due:
            if (id_ := due.pop()) not in found:
                found.add(id_)
                due += to[id_]
        return found


def _object(text: Any) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(store: Store, policy: str, made: _Graph) -> None:
    """Everything of one policy. Campaigns of other policies share nothing with it but source data."""
    started = store.rows(select(campaigns.c.name).where(campaigns.c.policy == policy).order_by(campaigns.c.created))
    place = {row.name: number for number, row in enumerate(started)}
    out: _Outputs = {stage: {} for stage in _STAGES}
    labelled: dict[str, dict[str, Any]] = {}
    query = select(stages.c.campaign, stages.c.round, stages.c.stage, stages.c.output)
    query = query.where(stages.c.campaign.in_(place), stages.c.stage.in_(_STAGES)).order_by(stages.c.attempt)
    for row in store.rows(query):
        out[row.stage][row.campaign, row.round] = output = _object(row.output)
        if row.stage == "label":
            labelled[str(output.get("batch"))] = output
    held = list(store.rows(select(versions).where(versions.c.policy == policy).order_by(versions.c.version)))
    _add_nodes(store, policy, made, place, out, labelled, held)
    _link_policies(policy, made, out, held)
    for id_, node in list(made.nodes.items()):
        name, round_ = node.get("campaign"), node.get("round")
        if node["kind"] == "batch" and node["attempt"] > 0 and round_ == 0:
            made.link([f"policy:{policy}@{out['base'].get((name, 0), {}).get('version')}"], id_)
        elif node["kind"] == "batch" and node["attempt"] > 0:
            run = out["optimise"].get((name, round_), {})
            made.link([f"policy:{policy}@{run.get('start')}", f"policy:{policy}@{run.get('version')}"], id_)
        elif node["kind"] == "reward-model":
            fit, frozen = out["fit_reward"][name, round_], out["snapshot"].get((name, round_), {})
            base = f"policy:{policy}@{out['base'].get((name, 0), {}).get('version')}"  # it is fitted from the base's trunk
            made.link([base, *_batches(frozen), _data(out, name) if fit.get("given") else None], id_)
        elif node["kind"] == "gate":
            made.link([f"policy:{policy}@{v.version}" for v in held if (v.campaign, v.round) == (name, round_) and round_], id_)
            made.link([b for b, x in made.nodes.items() if x["kind"] == "batch" and (x["campaign"], x["round"]) == (name, round_)
                       and 0 < x["attempt"] <= node["attempt"]], id_)  # fmt: skip
    for v in held:  # what was approved at a gate is started from because of that gate
        made.link(made.gates_of(f"policy:{policy}@{v.parent}", approved=True), f"policy:{policy}@{v.version}")
    _add_deployments(store, policy, made)


def _batches(frozen: Any) -> list[str]:
    """The nodes of the batches that a snapshot holds."""
    names = frozen.get("batches") if isinstance(frozen, dict) else None
    return [f"batch:{name}" for name in names] if isinstance(names, list) else []


def _data(out: _Outputs, campaign: Any) -> str:
    return f"data:{out['data'].get((campaign, 0), {}).get('data_version')}"


def _add_nodes(
    store: Store, policy: str, made: _Graph, place: dict[str, int], out: _Outputs, labelled: dict[str, dict[str, Any]],
    held: list[Any],
) -> None:  # fmt: skip
    for (name, _), output in out["data"].items():
        md5 = str(output.get("data_version"))
        users = [n for (n, _), o in out["data"].items() if o.get("data_version") == output.get("data_version")]
        detail = f"{output.get('files')} files, used by {', '.join(users)}"
        made.add("data", md5, f"source data {md5[:8]}", detail, (place[name],), digest=md5, campaigns=users)
    for b in store.rows(select(batches).where(batches.c.campaign.in_(place)).order_by(batches.c.round, batches.c.attempt)):
        given = labelled.get(b.id, {}).get("labels")
        detail = f"{b.size} comparisons" if given is None else f"{given} labels on {b.size} comparisons"
        made.add(
            "batch", b.id, f"labels {b.id}", f"{detail}, {'from a file' if b.attempt <= 0 else b.annotators}",
            (place[b.campaign], b.round, b.attempt), f"/batches/{b.id}", campaign=b.campaign, round=b.round, attempt=b.attempt,
        )  # fmt: skip
    for (name, round_), output in out["fit_reward"].items():
        made.add(
            "reward-model", f"{name}.r{round_}", f"reward model {name}.r{round_}",
            f"{output.get('pairs')} pairs, {str(output.get('digest'))[:12]}", (place[name], round_), campaign=name,
            round=round_, digest=output.get("digest"), snapshot=output.get("snapshot"),
        )  # fmt: skip
    for v in held:
        name, lineage = f"{policy}@{v.version}", _object(v.lineage)
        frozen = lineage.get("snapshot") if "reward_model" not in lineage else None  # else the reward model's
        made.add(
            "policy", name, name, v.status, (v.version,), f"/checkpoints/{name}", campaign=v.campaign, round=v.round,
            digest=v.digest, snapshot=frozen.get("md5") if isinstance(frozen, dict) else None,
        )  # fmt: skip
    columns = (gates.c.id, gates.c.campaign, gates.c.round, gates.c.attempt, gates.c.state, decisions.c.approver)
    query = select(*columns).join(decisions, decisions.c.gate == gates.c.id, isouter=True).where(gates.c.campaign.in_(place))
    for g in store.rows(query.order_by(gates.c.round, gates.c.attempt)):
        made.add(
            "gate", g.id, f"gate {g.id}", f"{g.state} by {g.approver}" if g.approver else g.state,
            (place[g.campaign], g.round, g.attempt), f"/gates/{g.id}", campaign=g.campaign, round=g.round, attempt=g.attempt,
            state=g.state,
        )  # fmt: skip


def _link_policies(policy: str, made: _Graph, out: _Outputs, held: list[Any]) -> None:
    for v in held:
        lineage, parents = _object(v.lineage), [f"policy:{policy}@{v.parent}"]
        digest = lineage.get("reward_model")
        # Equal labels give equal models in two campaigns: it is the one of this campaign, the newest before the round.
        fits = [r for (name, r), o in out["fit_reward"].items()
                if name == v.campaign and r < max(1, v.round) and o.get("digest") == digest]  # fmt: skip
        if fits and digest is not None:
            parents.append(f"reward-model:{v.campaign}.r{max(fits)}")
        elif digest is None:  # the base; else from the preferences themselves, or from what scores in a model's place
            parents += [_data(out, v.campaign), *_batches(lineage.get("snapshot"))]
        made.link(parents, f"policy:{policy}@{v.version}")


def _add_deployments(store: Store, policy: str, made: _Graph) -> None:
    serving: dict[str, str] = {}
    for e in store.rows(select(events).where(events.c.kind.in_(_SERVING)).order_by(events.c.seq)):
        said = _object(e.payload)
        if said.get("policy") != policy:
            continue
        of = f"policy:{policy}@{said.get('version')}"
        id_ = made.add(
            "deployment", str(e.seq), f"{policy}@{said.get('version')} {_SERVING[e.kind]}", f"{e.time[:10]} by {e.actor}",
            (e.seq,), f"/ledger?kind={e.kind}&before={e.seq + 1}", policy=policy, seq=e.seq,
        )  # fmt: skip
        made.link([of, *made.gates_of(of, approved=True)], id_)
        if e.kind == "checkpoint.withdrawn":
            made.link([serving.get(of)], id_)
        else:
            serving[of] = id_
