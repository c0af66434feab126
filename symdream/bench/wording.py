"""Numbers and verdicts in words, the same in page, Markdown, LaTeX and terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from symdream.bench.comparisons import PRIMARY
from symdream.bench.environments import mixed
from symdream.bench.paired import NO_COMMON, NOT_FINISHED
from symdream.bench.statistics import BETTER, INFERIOR, LEVEL, NON_INFERIOR, UNDECIDED

MINUS = "\u2212"
TOLD = {BETTER: "better than", NON_INFERIOR: "non-inferior to", INFERIOR: "inferior to", UNDECIDED: "undecided against"}
FEWEST_STEPS = 20
INSTRUMENTS = {"dino": "DINO", "clip_i": "CLIP-I"}


def number(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    """With a true minus, such as +0.012 or −0.140; – for None."""
    if value is None:
        return "–"
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.replace("-", "").replace("+", "")
    return text.replace("-", MINUS)


def p_value(value: float | None) -> str:
    if value is None:
        return "–"
    if value >= 0.001:
        return f"{value:.3f}"
    return f"{value:.5f}" if value >= 0.00001 else "< 0.00001"


def interval(entry: Mapping[str, Any]) -> str:
    """+0.012 [−0.004, +0.028]"""
    if entry["mean"] is None:
        return "–"
    mean = number(entry["mean"], sign=True)
    if entry["low"] is None:
        return f"{mean} (one subject: no interval)"
    return f"{mean} [{number(entry['low'], sign=True)}, {number(entry['high'], sign=True)}]"


def verdict_told(entry: Mapping[str, Any]) -> str:
    """The verdict; of a difference that is surely negative this is said, if it is not called inferior."""
    if entry["verdict"] is None:
        return "–"
    below = entry["verdict"] != INFERIOR and entry["high"] is not None and entry["high"] < 0
    return entry["verdict"] + (" (below 0)" if below else "")


def spread(score: Mapping[str, Any] | None, digits: int = 3) -> str:
    """0.312 ± 0.041, the half width of the 95 % interval."""
    if score is None:
        return "–"
    if score["low"] is None:
        return number(score["mean"], digits)
    return f"{number(score['mean'], digits)} ± {number((score['high'] - score['low']) / 2, digits)}"


def primary_entries(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for entry in content["paired"] if entry["family"] == PRIMARY]


def headline(content: Mapping[str, Any]) -> str:
    """The primary family in one sentence."""
    family = primary_entries(content)
    arms = {arm["id"]: arm for arm in content["grid"]["arms"]}
    if not family:
        return "This grid holds no comparison of the primary family: SingLoRA against another method."
    if not any(entry["pairs"] for entry in family):
        finished = any(sum(e["dropped"].values()) > e["dropped"][NOT_FINISHED] for e in family)
        return (
            "No pair of runs of the primary family could be compared at matched CLIP-T."
            if finished
            else "No pair of runs of the primary family is finished yet."
        )
    compared = [entry for entry in family if entry["pairs"]]
    parts = []
    for verdict in TOLD:
        against = [
            arms[e["against"]]["label"] + verdict_told(e).removeprefix(verdict)
            for e in compared
            if e["verdict"] == verdict
        ]
        if against:
            parts.append(f"{TOLD[verdict]} {listing(against)}")
    if unjudged := [arms[e["against"]]["label"] for e in compared if e["verdict"] is None]:
        parts.append(f"not judged against {listing(unjudged)}, as no margin is known")
    if without := [arms[e["against"]]["label"] for e in family if not e["pairs"]]:
        parts.append(f"not compared with {listing(without)}, for want of a pair of runs")
    ours = arms[family[0]["arm"]]
    share = ""
    if lora := next((arms[e["against"]] for e in family if arms[e["against"]]["method"] == "lora"), None):
        share = f", with {ours['parameters'] / lora['parameters']:.0%} of the parameters of {lora['label']},"
    n = count(content["analysis"]["primary"]["subjects"], "subject")
    if (fewest := min(entry["n"] for entry in compared)) < content["analysis"]["primary"]["subjects"]:
        n = f"{fewest} to {n}"
    return f"{ours['label']}{share} is {'; '.join(parts)}. DINO at matched CLIP-T, {n}, Holm-corrected."


def warnings(content: Mapping[str, Any]) -> list[str]:
    """What must be known before any number is read."""
    analysis, grid = content["analysis"], content["grid"]
    told = list(content["notes"])
    labels = {arm["id"]: arm["label"] for arm in grid["arms"]}
    states = analysis["states"]
    if analysis["partial"]:
        total = sum(states.values())
        rest = ", ".join(f"{states[s]} {s}" for s in ("failed", "missing") if states.get(s))
        done = f"{states.get('finished', 0)} of {total} cells are finished"
        done += f" ({rest})." if rest else "."
        told.append(f"Partial: {done}" if total else "Partial: no cell has been started.")
    if note := mixed(content):
        told.append(note)
    for name, label in INSTRUMENTS.items():
        found = content["instrument"].get(name)
        if found is None:
            continue
        if found["auc"] is None:
            told.append(f"Whether {label} tells one subject from another could not be tested: {found['why']}.")
        elif not found["enough"]:
            told.append(f"{label} measures class and style more than identity (AUC {found['auc']:.3f}, below 0.9).")
    if grid["steps"] < FEWEST_STEPS:
        told.append(
            f"{grid['steps']} steps teach nothing yet: this shows that the machinery runs; no score means anything."
        )
    if not grid["tuned"]:
        told.append("Fixed: no rate was tuned; every method has that of the table of methods.")
    primary = analysis["primary"]
    least = [p_value(primary[name]) for name in ("smallest_p", "smallest_p_holm")]
    if primary["subjects"] and primary["smallest_p_holm"] > LEVEL:
        told.append(
            f"With {count(primary['subjects'], 'subject')} no difference can be significant: the smallest attainable p "
            f"of the exact test is {least[0]}, Holm-corrected {least[1]}."
        )
    for entry in primary_entries(content):
        if dropped := dropped_told(entry, labels):
            told.append(f"Against {labels[entry['against']]} {dropped}; see also the differences after the last step.")
    return told


def dropped_told(entry: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """Pairs that a finished grid could not compare; those not run yet are told elsewhere."""
    lost = entry["dropped"][NO_COMMON]
    whole = lost + entry["pairs"]
    ahead = entry["dropped_ahead"]
    return (
        f"{lost} of {whole} pairs were dropped, as the two runs share no CLIP-T (in {ahead['ours']} of them "
        f"{labels[entry['arm']]} ended with more of both scores, in {ahead['theirs']} {labels[entry['against']]})"
        if lost
        else ""
    )


def missing_told(entry: Mapping[str, Any]) -> str:
    parts = [f"{count} {why}".replace("clip_t", "CLIP-T") for why, count in entry["dropped"].items() if count]
    return f"{entry['pairs']}" + (f" ({', '.join(parts)})" if parts else "")


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def listing(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
