"""What every stage is handed, and what it hands back."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from rlback import __version__
from rlback.campaign.plan import Recorded, Step
from rlback.campaign.sources import PairsSource, Source, open_source
from rlback.config import CampaignConfig
from rlback.errors import StageError
from rlback.ledger.store import Transaction
from rlback.ledger.tables import campaigns, checkpoints, stages
from rlback.project import Project
from rlback.records import CheckpointKind, Completion, Report, digest_of, seed_of, silent
from rlback.registry.mlflow_store import MlflowStore, NewCheckpoint
from rlback.registry.operations import Version, get_version

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from rlback.models.policy import Policy
    from rlback.models.reward_model import RewardModel
    from rlback.models.sampler import Samples

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "mlflow", "prefect", "dvc")


def _nothing(transaction: Transaction) -> None:
    pass


@dataclass(frozen=True)
class StageResult:
    """A stage's output, and what is written in the same transaction as the record of it."""

    output: dict[str, Any]
    record: Callable[[Transaction], None] = field(default=_nothing)
    cache_key: str | None = None


@dataclass(frozen=True)
class Context:
    """One stage of one campaign, about to run."""

    project: Project
    campaign: str
    policy: str
    config: CampaignConfig
    inputs: dict[str, Any]
    recorded: Recorded
    step: Step
    kept_version: int | None
    work: Path
    report: Report
    mirror: MlflowStore
    #: Says that a stage is through its steps and what it does now; returns the `Report` of that.
    part: Callable[[str], Report] = lambda said: silent

    @cached_property
    def source(self) -> Source:
        """The campaign's source of prompts and first preferences; a frozen copy of them is checked before it is read."""
        source = open_source(self.project, self.config, self.campaign, self.inputs, self._prompt_tokens)
        made = self.recorded.get((0, "data", 1))
        if made is not None and isinstance(source, PairsSource):
            source.require_as_frozen(made)
        return source

    def _prompt_tokens(self, prompt: str) -> int:
        from rlback.models.conversations import prompt_ids

        return len(prompt_ids(self._base_tokenizer, prompt))

    @cached_property
    def _base_tokenizer(self) -> PreTrainedTokenizerFast:
        from rlback.models.architecture import read_foreign_tokenizer
        from rlback.models.manifest import verify_checkpoint

        location = self.project.absolute(self.base.location)
        verify_checkpoint(location, self.base.digest)
        return read_foreign_tokenizer(location)

    def seed(self, purpose: str) -> int:
        """A seed for one purpose in this stage; campaigns that differ in name only draw the same numbers."""
        return seed_of(self.config.seed, self.step.round, self.step.stage, self.step.attempt, purpose)

    def output(self, stage: str, round_: int | None = None, attempt: int = 1) -> Mapping[str, Any]:
        """The recorded output of an earlier stage, of this round unless another is named.

        Raises:
            StageError: it is not recorded.
        """
        key = (self.step.round if round_ is None else round_, stage, attempt)
        if key not in self.recorded:
            raise StageError(f"{self.campaign}: round {key[0]} has no recorded output of {stage}")
        return self.recorded[key]

    @property
    def base(self) -> Version:
        """The base policy's version."""
        return get_version(self.project.store, self.policy, self.output("base", 0)["version"])

    @property
    def start(self) -> Version:
        """The checkpoint this round started from."""
        return get_version(self.project.store, self.policy, self.output("optimise")["start"])

    @property
    def candidate(self) -> Version:
        """The checkpoint this round proposes."""
        return get_version(self.project.store, self.policy, self.output("optimise")["version"])

    @property
    def reward_digest(self) -> str:
        """Digest of the newest reward model fitted before this stage's policy was optimised."""
        fits = [r for (r, stage, _) in self.recorded if stage == "fit_reward" and r < max(1, self.step.round)]
        return str(self.output("fit_reward", max(fits))["digest"])

    def load_policy(self, version: Version, base: Policy | None = None) -> Policy:
        """Loads a version after checking its files; an adapter goes on `base`, or on its base loaded anew."""
        from rlback.models.checkpoint import load_policy

        def load_base(digest: str) -> Policy:
            if base is not None and base.digest == digest:
                return base
            found = load_policy(self._location(digest), digest)
            found.model.to(self.config.device)
            return found

        policy = load_policy(self.project.absolute(version.location), version.digest, base=load_base)
        policy.model.to(self.config.device)
        return policy

    def _location(self, digest: str) -> Path:
        row = self.project.store.first(select(checkpoints.c.location).where(checkpoints.c.digest == digest))
        if row is None:
            raise StageError(f"no checkpoint with digest {digest} is on record")
        return self.project.absolute(row.location)

    def load_reward_model(self, digest: str) -> RewardModel:
        """Loads a reward model after checking its files."""
        from rlback.models.checkpoint import load_reward_model

        return load_reward_model(self._location(digest), digest).to(self.config.device)

    def save(
        self, directory: Path, digest: str, kind: CheckpointKind, *, step: int | None = None, metrics: Any = None, run: Any = None
    ) -> Any:
        """Logs a checkpoint directory as an MLflow LoggedModel; the same one is logged once."""
        new = self.new_checkpoint(directory, digest, kind, step=step, metrics=metrics)
        return self.mirror.log_checkpoints([new], experiment=self.campaign, run_id=run)[0]

    def new_checkpoint(
        self, directory: Path, digest: str, kind: CheckpointKind, *, step: int | None = None, metrics: Any = None
    ) -> NewCheckpoint:
        """A checkpoint directory of this stage, to be logged under this stage's name and tags."""
        return NewCheckpoint(
            directory,
            name=f"{kind}-r{self.step.round}" + (f"-step{step}" if step is not None else ""),
            digest=digest,
            kind=kind,
            step=step,
            tags={"campaign": self.campaign, "round": str(self.step.round), "stage": self.step.stage},
            metrics=metrics or {},
        )

    def draw(self, policy: Policy, prompts: Sequence[str], *, seed: int, per_prompt: int = 1) -> Samples:
        """Draws `per_prompt` completions for each prompt, those of one prompt side by side."""
        from rlback.models.conversations import prompt_ids

        return self.source.sampler(policy.tokenizer)(
            policy,
            [prompt_ids(policy.tokenizer, prompt) for prompt in prompts],
            max_new_tokens=self.config.optimise.max_new_tokens,
            seed=seed,
            temperature=self.config.optimise.temperature,
            samples_per_prompt=per_prompt,
        )

    def complete(self, policy: Policy, prompts: Sequence[str], *, seed: int, per_prompt: int = 1) -> list[Completion]:
        """As `draw`, with texts."""
        drawn = self.draw(policy, prompts, seed=seed, per_prompt=per_prompt)
        return completions_of(policy, drawn)

    def lineage(self) -> dict[str, Any]:
        """What stands behind anything this stage makes: configuration, code, libraries, data, inputs."""
        return {
            "campaign": self.campaign,
            "round": self.step.round,
            "config_digest": digest_of(self.config.model_dump(mode="json")),
            "seed": self.config.seed,
            "code": code_identity(),
            "libraries": libraries(),
            "data": dict(self.recorded.get((0, "data", 1), {})),
            "inputs": self.inputs,
        }


@cache
def libraries() -> dict[str, str]:
    """Versions of the libraries that shape a result."""
    return {name: installed_version(name) for name in LIBRARIES}


@cache
def code_identity() -> dict[str, Any]:
    """The code that runs: version, git revision where there is one, and a digest over the package's files."""
    package = Path(__file__).resolve().parents[1]
    files = sorted(p for p in package.rglob("*.py") if "__pycache__" not in p.parts)
    digest = digest_of([[str(p.relative_to(package)), p.read_text(encoding="utf-8")] for p in files])
    return {"version": __version__, "digest": digest, **_git(package)}


def _git(directory: Path) -> dict[str, Any]:
    def ask(*command: str) -> str | None:
        try:
            done = subprocess.run(["git", *command], cwd=directory, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    revision = ask("rev-parse", "HEAD")
    if revision is None:
        return {"revision": None, "modified": None}
    return {"revision": revision, "modified": bool(ask("status", "--porcelain", "--", "."))}


def completions_of(policy: Policy, drawn: Samples) -> list[Completion]:
    """What was drawn, with its text, and with what an environment wrote of it."""
    from rlback.models.tokenizers import answers_in, decode

    found = []
    for ids, done, mask in zip(drawn.completions(), drawn.finished.tolist(), drawn.mask.tolist(), strict=True):
        text = decode(policy.tokenizer, ids)
        found.append(Completion(text, ids, bool(done), answers_in(policy.tokenizer, ids, mask[: len(ids)], text)))
    return found


def load_recorded(project: Project, campaign: str) -> dict[tuple[int, str, int], dict[str, Any]]:
    """Everything recorded of a campaign so far."""
    rows = project.store.rows(select(stages).where(stages.c.campaign == campaign))
    return {(row.round, row.stage, row.attempt): json.loads(row.output) for row in rows}


def load_campaign(project: Project, name: str) -> Any:
    """A campaign's row.

    Raises:
        StageError: there is none.
    """
    row = project.store.first(select(campaigns).where(campaigns.c.name == name))
    if row is None:
        known = [r.name for r in project.store.rows(select(campaigns.c.name).order_by(campaigns.c.created))]
        remedy = f"campaigns here: {', '.join(known)}" if known else "start one with `rlback run CONFIG` or `rlback demo`"
        raise StageError(f"there is no campaign {name}", remedy=remedy, missing=True)
    return row
