"""What a campaign has to say about itself that a person should read before going on."""

from __future__ import annotations

from typing import Any

from rlback.campaign.context import load_campaign, load_recorded
from rlback.campaign.machine import config_of
from rlback.project import Project

#: Fewer held-out pairs than this are remarked on.
FEW = 100


def remarks(project: Project, name: str) -> list[str]:
    """Lines on what its stages came to: rounds whose training diverged, and what became of people's preferences.

    What is said of the data beforehand (`opening_lines`) is not among them.
    """
    recorded = load_recorded(project, name)
    lines = [
        f"Round {round_} proposes nothing, and the policy stays as it was: {output['diverged']}"
        for (round_, stage, _), output in sorted(recorded.items())
        if stage == "optimise" and "diverged" in output
    ]
    data = recorded.get((0, "data", 1), {})
    if "pairs" not in data:
        return lines
    source = config_of(load_campaign(project, name)).source
    published = source.published
    too_long = recorded.get((1, "sample", 1), {}).get("prompts_too_long", 0)
    if too_long:
        limit = f"{source.max_prompt_tokens} tokens (source.max_prompt_tokens)"
        lines.append(f"Prompts of more than {limit}: {too_long}; the policy is neither trained nor sampled on them")
    fits = sorted(r for (r, stage, _) in recorded if stage == "fit_reward")
    for round_ in fits:
        held = recorded[(round_, "fit_reward", 1)]["held_out"]
        if held:
            after = f"after round {round_}" if round_ else "first fit"
            lines.append(_accuracy(after, held, data, published))
    return lines


def opening_lines(counts: dict[str, Any]) -> list[str]:
    """What is said of a campaign on people's preferences before it starts, and not again."""
    return [*data_lines(counts), "The policy is far too small to write fluent text: judge the loop, not the prose."]


def data_lines(data: dict[str, Any]) -> list[str]:
    """What is trained on, held out and left out (`sources.Parted.counts`), and what is odd about it."""
    line = f"{data['train']} pairs to train on"
    if data["held"]:
        groups, leaked = len(data["held_groups"]), data["leaked"]
        both = f"{leaked} of these pairs share{'s' * (leaked == 1)} a completion with a pair trained on"
        line += f", {data['held']} held out ({groups} whole group{'s' * (groups != 1)}; {both})"
    dropped = {key: n for key, n in data["dropped"].items() if n}
    if dropped:
        line += "; left out: " + ", ".join(f"{n} {key.replace('_', ' ')}" for key, n in dropped.items())
    if data["held"] > data["train"]:
        return [line, "More is held out than trained on: lower source.held_out, or give more pairs."]
    if 0 < data["held"] < FEW:
        off = round(98 / data["held"] ** 0.5)
        unsure = f"An accuracy on {data['held']} held-out pairs is some {off} points unsure either way"
        return [line, f"{unsure}: raise source.held_out."]
    return [line]


def _accuracy(when: str, held: dict[str, Any], data: dict[str, Any], published: str) -> str:
    baseline = data["length_baseline_held"]["value"]
    line = f"Reward model ({when}): accuracy {held['accuracy']:.3f} on held-out groups; longer-wins {baseline:.3f}"
    if held["accuracy_shorter_chosen"] is not None:
        line += f"; {held['accuracy_shorter_chosen']:.3f} where the shorter was chosen (longer-wins 0)"
    return f"{line}; published {published}" if published else line
