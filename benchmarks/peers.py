"""The peer's side: TRL's trainers and Hugging Face `generate`, set for speed. See docs/benchmarks.md for each setting."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, TrainerCallback

from benchmarks import materials
from benchmarks.clock import Clock
from benchmarks.materials import Facts
from benchmarks.shapes import (
    DPO_BETA,
    KL_BETA,
    LR,
    NEW_TOKENS,
    PAIRS_PER_STEP,
    PROMPTS_PER_STEP,
    ROW_TOKENS,
    ROWS,
    SAMPLES_PER_PROMPT,
    Shape,
    Variant,
)
from rlback.models.digests import weights_digest
from rlback.models.policy import Policy
from rlback.models.reward_model import RewardModel
from rlback.records import seed_of
from rlback.training.state import tokens_digest


def run(workload: str, shape: Shape, variant: Variant, clock: Clock) -> Facts:
    """Runs one workload with `clock` called after every step; returns what the driver compares between sides."""
    if workload == "generate":
        return _generate(shape, variant, clock)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        return {"rloo": _rloo, "reward": _reward, "dpo": _dpo}[workload](shape, variant, clock, Path(directory))


class _Ticks(TrainerCallback):
    """Calls the clock after every optimiser step."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.clock.tick()


def _common(rows: int, variant: Variant, clock: Clock, directory: Path) -> dict[str, Any]:
    """Arguments of all three trainers: nothing is logged, saved, evaluated or recomputed."""
    return {
        "output_dir": str(directory / "out"),
        "per_device_train_batch_size": rows // variant.parts,
        "gradient_accumulation_steps": variant.parts,
        "max_steps": clock.plan.total,
        "learning_rate": LR,
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "optim": "adamw_torch_fused",
        "bf16": variant.precision == "bf16",
        "gradient_checkpointing": False,
        "logging_strategy": "no",
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "use_cpu": True,
        "seed": seed_of("benchmark") % 2**31,
    }


def _reloaded(policy: Policy, attention: str, directory: Path) -> LlamaForCausalLM:
    """The policy through the disk: the RLOO trainer loads its reference policy from where the policy came from."""
    policy.model.save_pretrained(directory / "policy")
    return LlamaForCausalLM.from_pretrained(directory / "policy", dtype=torch.float32, attn_implementation=attention)


def _classifier(policy: Policy, ours: RewardModel, attention: str) -> LlamaForSequenceClassification:
    """The sequence classifier with the weights of our reward model."""
    config = LlamaConfig(**{**policy.model.config.to_dict(), "num_labels": 1})
    made = LlamaForSequenceClassification(config).float()
    made.model.load_state_dict(ours.trunk.state_dict())
    with torch.no_grad():
        made.score.weight.copy_(ours.head.weight)
    made.set_attn_implementation(attention)
    return made


def _rloo(shape: Shape, variant: Variant, clock: Clock, directory: Path) -> Facts:
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    policy = materials.policy(shape, endless=True)
    prompts = materials.prompts(shape, clock.plan.total * PROMPTS_PER_STEP)
    config = RLOOConfig(
        **_common(ROWS, variant, clock, directory),
        num_generations=SAMPLES_PER_PROMPT,
        max_completion_length=NEW_TOKENS,
        num_iterations=1,
        beta=KL_BETA,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        normalize_advantages=True,
        disable_dropout=True,
    )
    model = _reloaded(policy, variant.attention, directory)
    facts: Facts = {"weights": weights_digest(model), "data": tokens_digest(prompts)}
    trainer = RLOOTrainer(
        model=model,
        reward_funcs=_classifier(policy, materials.reward_model(policy), variant.attention).eval(),
        args=config,
        # The blank keeps the prompt's last and the completion's first word apart where the trainer joins the texts.
        train_dataset=Dataset.from_dict({"prompt": [materials.text(policy.tokenizer, ids) + " " for ids in prompts]}),
        processing_class=policy.tokenizer,
        reward_processing_classes=policy.tokenizer,
        callbacks=[_Ticks(clock)],
    )
    trainer.train()
    return {**facts, "tokens": trainer.state.num_input_tokens_seen / trainer.state.global_step}


def _reward(shape: Shape, variant: Variant, clock: Clock, directory: Path) -> Facts:
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    policy = materials.policy(shape, endless=False)
    pairs = materials.pairs(shape, clock.plan.total * PAIRS_PER_STEP)
    model = _classifier(policy, materials.reward_model(policy), variant.attention)
    facts: Facts = {"weights": weights_digest(model.model), "data": materials.pairs_digest(pairs)}
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(**_common(PAIRS_PER_STEP, variant, clock, directory), disable_dropout=True),
        train_dataset=Dataset.from_dict(
            {
                "chosen_ids": [[*pair.prompt, *pair.chosen] for pair in pairs],
                "rejected_ids": [[*pair.prompt, *pair.rejected] for pair in pairs],
            }
        ),
        processing_class=policy.tokenizer,
        callbacks=[_Ticks(clock)],
    )
    row = trainer.train_dataset[0]
    trainer.train()
    return {**facts, "tokens": float(PAIRS_PER_STEP * (len(row["chosen_ids"]) + len(row["rejected_ids"])))}


def _dpo(shape: Shape, variant: Variant, clock: Clock, directory: Path) -> Facts:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    policy, reference = (materials.policy(shape, endless=False) for _ in range(2))
    pairs = materials.pairs(shape, clock.plan.total * PAIRS_PER_STEP)
    facts: Facts = {"weights": weights_digest(policy.model), "data": materials.pairs_digest(pairs)}
    words = policy.tokenizer
    for model in (policy.model, reference.model):
        model.set_attn_implementation(variant.attention)
    trainer = DPOTrainer(
        model=policy.model,
        ref_model=reference.model,
        args=DPOConfig(**_common(PAIRS_PER_STEP, variant, clock, directory), beta=DPO_BETA, disable_dropout=True),
        train_dataset=Dataset.from_dict(
            {
                "prompt": [materials.text(words, pair.prompt) + " " for pair in pairs],
                "chosen": [materials.text(words, pair.chosen) for pair in pairs],
                "rejected": [materials.text(words, pair.rejected) for pair in pairs],
            }
        ),
        processing_class=words,
        callbacks=[_Ticks(clock)],
    )
    row = trainer.train_dataset[0]
    assert row["prompt_ids"] + row["chosen_ids"] == [*pairs[0].prompt, *pairs[0].chosen]
    trainer.train()
    tokens = 2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"])
    return {**facts, "tokens": float(PAIRS_PER_STEP * tokens)}


def _generate(shape: Shape, variant: Variant, clock: Clock) -> Facts:
    from transformers import GenerationConfig

    policy = materials.policy(shape, endless=True)
    prompts = materials.prompts(shape, ROWS)
    facts: Facts = {"weights": weights_digest(policy.model), "data": tokens_digest(prompts)}
    model = policy.model.to(torch.bfloat16 if variant.precision == "bf16" else torch.float32).eval()
    model.set_attn_implementation(variant.attention)
    words = policy.tokenizer
    # Temperature 1 and no truncation of the distribution: generate then works on the logits without any processor.
    config = GenerationConfig(
        max_new_tokens=NEW_TOKENS,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        use_cache=True,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )
    ids = torch.tensor(prompts)
    mask = torch.ones_like(ids)
    torch.manual_seed(seed_of("benchmark") % 2**31)
    for _ in range(clock.plan.total):
        with torch.inference_mode():
            drawn = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        assert drawn.shape == (ROWS, ROW_TOKENS)
        clock.tick()
    return {**facts, "tokens": float(ROWS * ROW_TOKENS)}
