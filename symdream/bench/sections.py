"""What each section of the report's page says, as plain text for its template."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from symdream.bench.comparisons import EXPLORATORY, MATCHED, PRIMARY
from symdream.bench.environments import environments_of
from symdream.bench.pictures import Album
from symdream.bench.spectrum_figures import spectrum_rows
from symdream.bench.statistics import BOOTSTRAP_FROM, EXACT_UP_TO
from symdream.bench.tables import PRIMARY_HEAD, primary_rows, scope, score_rows, shown_columns
from symdream.bench.wording import INSTRUMENTS, count, interval, listing, missing_told, number, p_value, verdict_told

Content = Mapping[str, Any]


def page_sections(content: Content, album: Album) -> dict[str, Any]:
    """All that the template asks for but headline, warnings and plots."""
    spectrum = spectrum_table(content)
    sections = [("result", "Result"), ("pictures", "Pictures"), ("statistics", "Statistics"),
                ("instrument", "Instrument"), ("tuning", "Tuning"), ("spectrum", "Spectrum"), ("cells", "Cells"),
                ("provenance", "Provenance")]  # fmt: skip
    tables, left_out = album.grids()
    labels = album.labels
    return {
        "title": f"Comparison: {content['grid']['name']}",
        "subtitle": subtitle(content),
        "sections": [s for s in sections if s[0] != "spectrum" or spectrum],
        "primary": primary_rows(content),
        "primary_head": PRIMARY_HEAD,
        "primary_told": primary_told(content),
        "columns": shown_columns(content),
        "scores": score_rows(content),
        "scope": scope(content),
        "tables": tables,
        "subjects_left_out": left_out,
        "extremes": extremes(album) if tables else [],
        "method": method_told(content),
        "needed": needed_rows(content, labels),
        "margin": number(content["analysis"]["margins"].get("dino", {}).get("margin")),
        "variance": variance_rows(content, labels),
        "exploratory": exploratory_rows(content, labels),
        **instrument_section(content),
        **tuning_section(content, labels),
        "spectrum": spectrum,
        **cells_section(content),
        "provenance": provenance(content),
    }


def subtitle(content: Content) -> str:
    grid = content["grid"]
    return (
        f"{count(len(content['cells']), 'run')}: {count(len(grid['arms']), 'arm')} × "
        f"{count(len(grid['subjects']), 'subject')} × {count(len(grid['training_seeds']), 'training seed')}, on "
        f"{grid['base']['name']}. {content['created'][:10]}, symdream {content['symdream']}."
    )


def primary_told(content: Content) -> str:
    margin = content["analysis"]["margins"].get("dino")
    text = (
        "Fixed before any run: this family, this endpoint, this margin. The difference is ours − theirs, a subject's "
        "mean over training seeds; p is the exact sign-flip test over subjects."
    )
    if margin is None:
        return text + " There is no margin: the ceiling's DINO does not lie above the base's."
    top = {"ceiling": "the true subject's", "real": "the photos' own"}[margin["top_is"]]
    return (
        f"{text} Margin: {margin['fraction']:.0%} of the span from the base's DINO {number(margin['base'])} to {top} "
        f"{number(margin['top'])}, that is {number(margin['margin'], 4)}."
    )


def method_told(content: Content) -> list[str]:
    primary = content["analysis"]["primary"]
    told = [
        "The unit is the subject: runs of one subject are averaged first. Intervals are Student's t over subjects, "
        f"p-values exact sign-flip tests (sampled beyond {EXACT_UP_TO} subjects).",
        "DINO at matched CLIP-T: one run stands as it ended, the other is taken back along its states (the base, then "
        "the checkpoints) to where it last had that CLIP-T, by straight lines; nothing is extrapolated. Where both can "
        "be taken back, the end with more CLIP-T counts. Pairs without a common CLIP-T are dropped and counted.",
        "Better: the interval lies above 0. Non-inferior: above minus the margin. Inferior: below minus the margin. "
        "Each needs the one-sided test at 2.5 % too, Holm-corrected in the primary family. All else is undecided.",
    ]
    if primary["subjects"]:
        told.append(
            f"With {count(primary['subjects'], 'subject')} the smallest attainable p is "
            f"{p_value(primary['smallest_p'])}, Holm-corrected {p_value(primary['smallest_p_holm'])}."
        )
    boots = [e for e in content["paired"] if e["family"] == PRIMARY and e.get("bootstrap")]
    if boots:
        arms = {arm["id"]: arm["label"] for arm in content["grid"]["arms"]}
        pairs = [(arms[e["against"]], *(number(edge, sign=True) for edge in e["bootstrap"])) for e in boots]
        intervals = [f"{against} [{low}, {high}]" for against, low, high in pairs]
        told.append(f"Bootstrap (BCa) intervals beside the t intervals: {listing(intervals)}.")
    else:
        told.append(f"No bootstrap: it would take {BOOTSTRAP_FROM} subjects.")
    return told


def needed_rows(content: Content, labels: Mapping[str, str]) -> list[list[str]]:
    def told(subjects: int | None) -> str:
        return "more than 10 million" if subjects is None else f"{subjects:,}"

    rows = [e for e in content["paired"] if e["endpoint"] == MATCHED and e["subjects_needed"]]
    ours = {e["arm"] for e in content["paired"] if e["family"] == PRIMARY}
    return [
        [f"{labels[e['arm']]} − {labels[e['against']]}", number(e["sd"]), told(e["subjects_needed"]["margin"]),
         told(e["subjects_needed"]["paper"])]
        for e in rows
        if e["family"] == PRIMARY or e["arm"].split("-r")[0] in {a.split("-r")[0] for a in ours}
    ]  # fmt: skip


def variance_rows(content: Content, labels: Mapping[str, str]) -> list[list[str]]:
    rows = []
    for found in content["analysis"]["variance"]:
        name = labels[found["arm"]] + (f" − {labels[found['against']]}" if found["against"] else "")
        values = [found["components"][c] for c in ("subject", "training_seed", "prompt", "image_seed", "residual")]
        deviations = [number(None if v is None else math.sqrt(max(0.0, v))) for v in values]
        rows.append([name, *deviations, str(found["subjects"])])
    return rows


NAMES = {"drift": "class kept"}  # the score is 1 where the class stayed as it was


def exploratory_rows(content: Content, labels: Mapping[str, str]) -> list[list[str]]:
    return [
        [f"{labels[e['arm']]} − {labels[e['against']]}", NAMES.get(e["endpoint"], e["endpoint"]), interval(e),
         p_value(e["p"]), verdict_told(e), str(e["n"]), missing_told(e)]
        for e in content["paired"]
        if e["family"] == EXPLORATORY and e["mean"] is not None
    ]  # fmt: skip


def instrument_section(content: Content) -> dict[str, Any]:
    instrument = content["instrument"]
    rows = []
    for name, label in INSTRUMENTS.items():
        found = instrument.get(name)
        if found is None:
            continue
        encoder = content["encoders"]["dino" if name == "dino" else "clip"]["id"]
        values = [number(found.get(k)) for k in ("auc", "auc_class", "mean_same", "mean_other")]
        rows.append([label, encoder, *values, f"{found['pairs_same']:,} and {found['pairs_other']:,}"])
    swapped = instrument.get("backgrounds_swapped")
    iou = instrument.get("cutout_iou")
    return {
        "instrument": rows,
        "backgrounds": "with backgrounds swapped: different ones for the same subject, the same for different subjects"
        if swapped
        else "photos as they are, as no masks are known: backgrounds may help or mislead; within one class",
        "cutout": "Foreground scores cut the subject out of each picture by its border's colours; on the photos, whose "
        f"true masks are known, this finds the mask with a mean intersection over union of {iou:.3f}."
        if iou is not None
        else None,
    }


def tuning_section(content: Content, labels: Mapping[str, str]) -> dict[str, Any]:
    trials: dict[str, dict[tuple[float, float], Mapping[str, Any]]] = {}
    for trial in content["tuning"]:
        trials.setdefault(trial["arm"], {})[trial["lr"], trial["alpha"]] = trial
    rows = []
    for arm in labels:
        settings = content["settings"].get(arm)  # none as long as tuning goes on
        chosen = [settings[name] for name in ("lr", "text_encoder_lr", "alpha")] if settings else []
        row = [labels[arm], *(f"{value:g}" for value in chosen)] if chosen else [labels[arm], "–", "–", "–"]
        if trials:
            found = trials.get(arm, {})
            several = len({alpha for _, alpha in found}) > 1
            curve = ", ".join(
                f"{lr:g}{f' (alpha {alpha:g})' if several else ''}: {number(t['objective'], sign=True)}"
                for (lr, alpha), t in sorted(found.items())
            )
            row += [str(len(found)), curve]
        rows.append(row)
    if not trials:
        told = "Nothing was tuned: every method was trained with the rate of the table of methods, alpha = rank."
    else:
        names = list(dict.fromkeys(trial["subject"] for trial in content["tuning"]))
        compared = [name for name in names if name in content["grid"]["subjects"]]
        told = (
            f"On {listing(names)}, "
            + (f"of which it compares {listing(compared)} too" if compared else "which the comparison leaves out")
            + ", with prompts that it does not draw. The objective is DINO over the base's; a trial whose CLIP-T falls "
            f"below the floor ({number(content['tuning'][0]['clip_t_floor'])}) counts −1 − the shortfall. Every method "
            "had as many trials; its best one trained all of its runs."
        )
    return {"settings": rows, "tuned": bool(trials), "tuning_told": told}


def spectrum_table(content: Content) -> list[list[str]]:
    return [
        [r["label"], str(r["cells"]), f"{r['largest']:.3g}", number(r["effective_rank"], 2), str(r["rank"]),
         number(r["negative"]), number(r["lambda_negative"])]
        for r in spectrum_rows(content)
    ]  # fmt: skip


def cells_section(content: Content) -> dict[str, Any]:
    states = content["analysis"]["states"]
    told = ", ".join(f"{number} {state}" for state, number in states.items()) or "none"
    finished = [c for c in content["cells"] if c["status"] == "finished"]
    seconds = [c["seconds"] for c in finished if c.get("seconds") is not None]
    if seconds:
        told += f"; a finished one took {fmean(seconds):.0f} s on average, pictures and scores included"
    return {
        "cells_told": f"{len(content['cells'])} in all: {told}.",
        "unfinished": [(c["id"], c["status"], c["error"] or "") for c in content["cells"] if c["status"] != "finished"],
        "finished": [
            [c["id"], *(number(c["points"][-1]["scores"][s]) for s in ("dino", "clip_t", "clip_i")),
             number(c["seconds_per_step"], 2)]
            for c in finished
        ],
    }  # fmt: skip


def extremes(album: Album) -> list[dict[str, Any]]:
    return [
        cell | {"dino": number(cell["scores"]["dino"]), "clip_t": number(cell["scores"]["clip_t"])}
        for cell in album.extremes()
    ]


def provenance(content: Content) -> list[tuple[str, str]]:
    grid = content["grid"]
    sampling = grid["sampling"]
    rows = [
        ("base", f"{grid['base']['name']}, {grid['base']['hash'][:16]}"),
        ("training", f"{grid['steps']} steps, batch {grid['batch_size']}, seeds {_seeds(grid['training_seeds'])}; "
         f"scored after {listing([str(step) for step in grid['checkpoints']])}"),
        ("pictures", f"{sampling['sampler']}, {sampling['steps']} steps, guidance {sampling['guidance']:g}, image "
         f"seeds {_seeds(grid['image_seeds'])}"),
        ("subjects", ", ".join(grid["subjects"])),
        ("equal", {"rank": "rank", "parameters": "parameters", "both": "rank, and parameters"}[grid["match"]]),
        ("protocol", grid["protocol"]),
    ]  # fmt: skip
    for name, encoder in content["encoders"].items():
        preprocessing = ", ".join(f"{k} {v}" for k, v in encoder["preprocessing"].items())
        rows.append((name, f"{encoder['id']}, {encoder['hash'][:16]}; {preprocessing}"))
    return rows + [("machine", _machine(one)) for one in environments_of(content)]


def _machine(environment: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    dtype = f", {environment['dtype']}" if "dtype" in environment else ""
    return (
        f"{environment['device']}{dtype}, {environment['cpu_cores']} cores, Python {environment['python']}; {packages}"
    )


def _seeds(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
