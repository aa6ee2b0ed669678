"""The evidence at a gate as text: for the terminal and for a Prefect artifact."""

from __future__ import annotations

from typing import Any

from rlback.campaign.gate_samples import why_shown
from rlback.labelling.display import completion, shortened
from rlback.registry.gates import Gate

SAMPLE_CHARS = 600


def evidence_rows(gate: Gate) -> list[tuple[str, str, str]]:
    """What an approver reads: (name, value, remark)."""
    evidence, rows = gate.evidence, []
    found = evidence["statistics"]
    if found:
        rule = evidence["rule"]["at_least"]
        passed = found["win_rate"]["n"] > 0 and found["win_rate"]["value"] >= rule
        rows.append(
            (
                "human win rate over start",
                _share(found["win_rate"]),
                f"{'at least' if passed else 'below'} {rule:.2f}, the threshold set for this campaign",
            )
        )
        if found["agreement_cross"]:
            rows.append(("reward model agrees, candidate vs start", _share(found["agreement_cross"]), ""))
        if found["agreement_inside"]:
            rows.append(("reward model agrees, inside candidate", _share(found["agreement_inside"]), ""))
        if found["overclaim"] is not None:
            remark = "reward that people did not confirm" if found["overclaim"] > 0 else ""
            rows.append(("overclaim", f"{found['overclaim']:+.2f}", remark))
        rows.append(("ties, skips", f"{found['ties']}, {found['skips']}", ""))
    for held in evidence["labels"].get("quarantined", ()):
        rows.append((f"in quarantine, by {held['annotator']}", str(held["labels"]), f"{held['by']}: {held['reason']}"))
    measured = evidence["measured"]
    rows.append(("KL from start, nats a completion", f"{measured['kl_ref']:.1f}", ""))
    rows.append(("KL from base", f"{measured['kl_base']:.1f}", ""))
    if measured["proxy"] is not None:
        rows.append(("proxy reward", f"{measured['proxy']:.2f}", "standard deviations above base samples"))
    rows.append(("completions that ended", f"{measured['finished']:.0%}", ""))
    return rows


def evidence_title(gate: Gate) -> str:
    """What replaces what."""
    evidence = gate.evidence
    return f"{evidence['candidate']['address']} would replace {evidence['start']['address']}"


def evidence_markdown(gate: Gate) -> str:
    """The whole evidence as markdown; texts of the policy stand in indented blocks, where nothing is markup."""
    lines = [f"# Gate {gate.id}: {evidence_title(gate)}", "", "| | | |", "|---|---|---|"]
    lines += [f"| {name} | {value} | {remark} |" for name, value, remark in evidence_rows(gate)]
    labels = gate.evidence["labels"]
    lines += ["", f"{labels['count']} labels. Evidence digest `{gate.digest}`.", "", "## Samples"]
    for sample in gate.evidence["samples"]:
        if why := why_shown(sample):
            lines += ["", f"*{why}*"]
        for name, shown in (("prompt", shortened(sample["prompt"], SAMPLE_CHARS)), *sample_sides(sample)):
            lines += ["", f"{name}:", "", *(f"    {line}" for line in shown.split("\n"))]
    lines += ["", f"Decide: `rlback gate approve {gate.id} --digest {gate.digest[:12]}`"]
    return "\n".join(lines)


def sample_sides(sample: dict[str, Any]) -> list[tuple[str, str]]:
    """What the candidate and the start checkpoint wrote, as a terminal shows it."""
    written, ended = sample.get("answers", {}), sample.get("finished", (True, True))
    return [
        (side, completion(sample[side], written.get(side, ()), finished, SAMPLE_CHARS))
        for side, finished in zip(("candidate", "start"), ended, strict=True)
    ]


def _share(found: dict[str, Any]) -> str:
    return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}] n={found['n']}"
