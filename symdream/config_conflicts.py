"""What contradicts what in the settings: each value is right by itself, but not beside the others."""

from __future__ import annotations

from symdream.config import PRODIGY_LR, Prior, Subject, TrainConfig
from symdream.errors import Problem


def conflicts(config: TrainConfig) -> list[Problem]:
    """Settings that are each valid but do nothing, or contradict each other, together."""
    problems = []
    method = config.adapter.method
    for key, value, owner in (
        ("adapter.ramp", config.adapter.ramp, "singlora"),
        ("training.lambda_lr", config.training.lambda_lr, "symlora"),
        ("training.lora_plus_ratio", config.training.lora_plus_ratio, "lora+"),
    ):
        if value is not None and method != owner:
            problems.append(Problem(key, f"belongs to method {owner}; this run trains {method}"))
    if config.adapter.init is not None and method not in ("singlora", "symlora"):
        problems.append(Problem("adapter.init", f"belongs to singlora and symlora; this run trains {method}"))
    if config.adapter.components == "unet" and config.training.text_encoder_lr is not None:
        problems.append(Problem("training.text_encoder_lr", "does nothing: components = unet trains no text encoder"))
    if not config.selection.select_every:
        for name in ("patience", "dino", "clip"):
            if getattr(config.selection, name):
                problems.append(Problem(f"selection.{name}", "does nothing without select_every"))
    return problems + one_rate_problems(config) + data_conflicts(config)


def one_rate_problems(config: TrainConfig) -> list[Problem]:
    """Prodigy estimates one step size for all parameters and takes no second rate."""
    training = config.training
    if training.optimizer != "prodigy":
        return []
    problems = []
    if config.adapter.method == "lora+":
        problems.append(Problem("training.optimizer = prodigy", "has one rate for all; LoRA+ is two rates"))
    for name in ("text_encoder_lr", "lambda_lr"):
        rate = getattr(training, name)
        if rate is not None and rate != (training.lr or PRODIGY_LR):
            problems.append(Problem(f"training.{name} = {rate}", "prodigy has one rate for all: leave it out"))
    return problems


def data_conflicts(config: TrainConfig) -> list[Problem]:
    """Conflicts of [subject], [[subjects]] and [prior]."""
    problems = []
    prior, subjects = config.prior, config.subjects
    if subjects and config.subject != Subject():
        given = [name for name in Subject.model_fields if getattr(config.subject, name) != getattr(Subject(), name)]
        problems += [Problem(f"subject.{name}", "does not go with [[subjects]], which say it each") for name in given]
    if len(subjects) == 1 and subjects[0].repeats > 1:
        problems.append(Problem("subjects[1].repeats", "does nothing: there is no other subject to count beside"))
    triggers = [subject.trigger.lower() for subject in subjects]  # the tokenizer knows no case
    for trigger in sorted({trigger for trigger in triggers if triggers.count(trigger) > 1}):
        problems.append(Problem(f"subjects: trigger = {trigger}", "stands for two subjects; each needs its own"))
    if prior.class_images and prior.class_count:
        problems.append(Problem("prior.class_count", "does not go with class_images: they are given or drawn"))
    if not prior.wanted:
        for name in ("class_prompt", "prior_loss_weight"):
            if getattr(prior, name) != getattr(Prior(), name):
                problems.append(Problem(f"prior.{name}", "does nothing without class_count or class_images"))
    if len({subject.class_noun for subject in subjects}) > 1:
        for name in ("class_images", "class_prompt"):
            if getattr(prior, name):
                problems.append(Problem(f"prior.{name}", "is one class, the subjects are of several: take class_count"))
    return problems
