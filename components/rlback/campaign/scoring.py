"""Which scorer a campaign's policy is optimised against: its reward model, annotators' verdicts, or an outcome."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rlback.campaign.context import Context
from rlback.config import OutcomeConfig
from rlback.errors import ConfigError
from rlback.project import Project
from rlback.records import Comparison, Completion, Verdict, digest_of, seed_of

if TYPE_CHECKING:
    from rlback.models.policy import Policy
    from rlback.training.scorers import Scorer


def scorer_of(context: Context, policy: Policy, texts: Mapping[tuple[int, ...], str]) -> Scorer:
    """The scorer that `scores` in the configuration asks for; `texts` are the prompts by their token ids."""
    scores = context.config.scores
    if scores == "reward_model":
        return context.load_reward_model(context.reward_digest)
    if scores == "annotators":
        return _annotators(context, policy, texts)
    return _outcome(context, scores, policy, texts)


def scorer_lineage(context: Context) -> dict[str, Any]:
    """What stands in a candidate's lineage for its scorer."""
    scores = context.config.scores
    if scores == "reward_model":
        return {"reward_model": context.reward_digest}
    if scores == "annotators":
        return {"scores": _annotator(context).lineage()}
    return {"scores": {"outcome": scores.shown, "sha256": _file_digest(context, scores)}}


def _annotator(context: Context) -> Any:
    from rlback.campaign.stages_labels import simulated_annotator

    return simulated_annotator(context)


def _annotators(context: Context, policy: Policy, texts: Mapping[tuple[int, ...], str]) -> Scorer:
    from rlback.models.tokenizers import decode
    from rlback.training.scorers import AnnotatorScorer

    annotator, tokenizer = _annotator(context), policy.tokenizer

    def completion(ids: tuple[int, ...]) -> Completion:
        return Completion(decode(tokenizer, ids), ids, bool(ids) and ids[-1] == tokenizer.eos_token_id)

    def compare(prompt: Any, a: Any, b: Any) -> Verdict:
        a, b = tuple(a), tuple(b)
        comparison = Comparison(texts[tuple(prompt)], completion(a), completion(b), "inside")
        # The verdict depends on what is compared and not on when, so that a resumed run hears the same one.
        return annotator.verdict(comparison, seed_of(context.seed("direct"), tuple(prompt), a, b))

    return AnnotatorScorer(compare, digest_of([annotator.lineage(), context.seed("direct")]))


def _outcome(
    context: Context, outcome: OutcomeConfig, policy: Policy, texts: Mapping[tuple[int, ...], str]
) -> Scorer:
    from rlback.models.tokenizers import decode
    from rlback.training.scorers import CommandScorer, FunctionScorer

    def read(ids: Any) -> str:
        # Prompts come back as they were given, completions decoded.
        return texts.get(tuple(ids)) or decode(policy.tokenizer, tuple(ids))

    if outcome.command:
        return CommandScorer(outcome.command, read, outcome.timeout_s, directory=context.project.root)
    name = f"{outcome.shown} {_file_digest(context, outcome)}"
    return FunctionScorer(_function(context, outcome), name, read)


def _function(context: Context, outcome: OutcomeConfig) -> Callable[[str, str], float]:
    """The function that `file.py:name` names, from a file of the user's inside the project."""
    path, name = outcome_place(context.project, outcome)
    function = vars(_imported(path)).get(name)
    if not callable(function):
        raise ConfigError(f"scores.function: {path} has no function {name}", remedy="write it as FILE.py:FUNCTION")
    return function


def _imported(path: Path) -> ModuleType:
    """A user's own file as a module. ConfigError naming it for whatever it raises, an exit included."""
    from rlback.training.scorers import ENDS_THE_RUN, raised

    # No two files share a name, nor does one with a module of somebody else's.
    spec = importlib.util.spec_from_file_location(f"rlback_outcome_{path.stem}_{digest_of(str(path))[:12]}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"scores.function: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks there for the module that it stands in
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(spec.name, None)
        if isinstance(error, ENDS_THE_RUN):
            raise
        raise ConfigError(
            f"scores.function: {path} cannot be imported: {raised(error)}", remedy=f"try it by hand: python {path}"
        ) from None
    return module


def outcome_place(project: Project, outcome: OutcomeConfig) -> tuple[Path, str]:
    """The file and the name in it that `function` is; nothing is read. ConfigError where it is no file of the project."""
    assert outcome.function is not None
    file, _, name = outcome.function.rpartition(":")
    path = (project.root / file).resolve()
    if not path.is_relative_to(project.root.resolve()):
        raise ConfigError(
            f"scores.function: {file} lies outside the project", remedy="copy the file into it, so that it can be recorded"
        )
    if not path.is_file():
        raise ConfigError(f"scores.function: there is no file {path}", remedy="name it relative to the project, FILE.py:FUNCTION")
    return path, name


def _file_digest(context: Context, outcome: OutcomeConfig) -> str | None:
    if outcome.function is None:
        return None
    return hashlib.sha256(outcome_place(context.project, outcome)[0].read_bytes()).hexdigest()
