"""What the plots of scores show is where the numbers are: points, intervals, margins, labels and marks."""

import pytest
from helpers.comparisons import simulated

from symdream.bench import figures
from symdream.bench.analysis import analyse
from symdream.bench.comparisons import PRIMARY

SINGLORA, LORA = "singlora-r8", "lora-r8"


@pytest.fixture(scope="module")
def content():
    """Of each picture SingLoRA's DINO lies 0.06 below LoRA's and SymLoRA's 0.09 above, all at the same CLIP-T."""
    effects = {SINGLORA: -0.06, "symlora-r8": 0.09}
    content, rows = simulated(effects, noise=0.01, subjects=5, seeds=1, match="rank")
    for cell in content["cells"]:
        cell["seconds_per_step"] = 0.25 if cell["arm"] == LORA else 0.5
    return content | analyse(content, rows)


def lines_at(axes, place):
    """The x of every line drawn along the row `place`."""
    return [list(line.get_xdata()) for line in axes.lines if set(line.get_ydata()) == {place}]


def rows_of(axes):
    """{label: its place} of the ticks of the y axis."""
    return dict(zip([text.get_text() for text in axes.get_yticklabels()], axes.get_yticks(), strict=True))


def labels(content):
    return {arm["id"]: arm["label"] for arm in content["grid"]["arms"]}


def drawn_of(axes, label):
    """(x, y) of what stands in the legend under `label`."""
    [line] = [line for line in axes.lines if line.get_label() == label]
    return [(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)]


def test_every_comparison_of_the_forest_stands_in_its_row(content):
    axes = figures.forest(content).axes[0]
    rows, names = rows_of(axes), labels(content)
    assert list(rows.values()) == sorted(rows.values(), reverse=True)  # the primary family on top
    for entry in figures.forest_rows(content):
        found = lines_at(axes, rows[f"{names[entry['arm']]} − {names[entry['against']]}"])
        assert [entry["mean"]] in found and [entry["low"], entry["high"]] in found
        assert list(entry["subjects"].values()) in found
    # The truth of the simulation: ours minus theirs.
    for other, truth in (("LoRA r8", -0.06), ("SymLoRA r8", -0.15)):
        [[mean]] = [x for x in lines_at(axes, rows[f"SingLoRA r8 − {other}"]) if len(x) == 1]
        assert mean == pytest.approx(truth, abs=0.01)


def test_what_is_no_worse_than_the_margin_is_shaded(content):
    axes = figures.forest(content).axes[0]
    margin = figures.forest_rows(content)[0]["margin"]
    [band] = axes.patches
    left, right = band.get_extents().transformed(axes.transData.inverted()).intervalx
    assert (left, right) == pytest.approx((-margin, axes.get_xlim()[1])) and right > 0
    assert [-margin, -margin] in [list(line.get_xdata()) for line in axes.lines]


def test_the_differences_at_the_end_stand_in_their_rows(content):
    dino, clip_t = figures.at_the_end(content).axes
    assert (dino.get_title("left"), clip_t.get_title("left")) == ("DINO", "CLIP-T")
    rows, names = rows_of(dino), labels(content)
    family = [entry for entry in content["paired"] if entry["family"] == PRIMARY]
    assert len(rows) == len(family) == 4
    for of_family in family:
        pair = of_family["arm"], of_family["against"]
        for axes, endpoint in ((dino, "dino"), (clip_t, "clip_t")):
            [entry] = [e for e in content["paired"] if (e["endpoint"], e["arm"], e["against"]) == (endpoint, *pair)]
            found = lines_at(axes, rows[" − ".join(names[arm] for arm in pair)])
            assert [entry["mean"]] in found and [entry["low"], entry["high"]] in found


def test_every_arms_path_goes_from_the_base_to_its_last_state_along_clip_t(content):
    axes = figures.tradeoff(content).axes[0]
    assert axes.get_xlabel().startswith("CLIP-T") and axes.get_ylabel().startswith("DINO")
    base = content["analysis"]["references"]["base"]
    start = (base["clip_t"], base["dino"])
    assert drawn_of(axes, "base") == [start]
    paths = [list(zip(*line.get_data(), strict=True)) for line in axes.lines]
    states = []
    for name, label in labels(content).items():
        path = [(p["clip_t"], p["dino"]) for p in content["analysis"]["arms"][name]["path"]]
        assert len(path) == 3 and [start, *path] in paths and path in paths
        assert drawn_of(axes, label) == path[-1:]
        states += path
    for x, y in drawn_of(axes, "front"):
        assert (x, y) in states and not any(a >= x and b > y for a, b in states)


def test_costs_are_of_the_whole_training_with_the_interval_of_each_arm(content):
    skewed = {name: row | {"scores": row["scores"] | {"dino": {"mean": 0.2 + i, "low": 0.1 + i, "high": 0.5 + i}}}
              for i, (name, row) in enumerate(content["analysis"]["arms"].items())}  # fmt: skip
    content = content | {"analysis": content["analysis"] | {"arms": skewed}}
    figure = figures.costs(content)
    left, right = figure.axes
    assert "parameters" in left.get_xlabel() and "seconds" in right.get_xlabel()
    steps = content["grid"]["steps"]
    for axes in (left, right):
        assert len(axes.containers) == len(skewed)
        for bars in axes.containers:
            [name] = [name for name, label in labels(content).items() if label == bars.get_label()]
            row = skewed[name]
            seconds = (0.25 if name == LORA else 0.5) * steps
            x = row["parameters"] / 1000 if axes is left else seconds
            point, _, [whisker] = bars.lines
            assert list(zip(*point.get_data(), strict=True)) == [(x, row["scores"]["dino"]["mean"])]
            [ends] = whisker.get_segments()
            dino = row["scores"]["dino"]
            assert ends.tolist() == [pytest.approx([x, dino["low"]]), pytest.approx([x, dino["high"]])]


def test_chosen_rates_are_ringed_and_those_below_the_floor_crossed(content):
    """LoRA chose 1e-3, all others 3.16e-4; each loses too much CLIP-T at 3.16e-3. One tuning subject is far easier."""
    tuning = [
        trial | {
            "chosen": trial["lr"] == (1e-3 if trial["arm"] == LORA else 3.16e-4),
            "scores": {"dino": trial["lr"] * 10 + (0.5 if trial["subject"] == "owl" else 0.1), "clip_t": 0.6},
        }
        for trial in content["tuning"]
    ]  # fmt: skip
    axes = figures.tuning_curves(content | {"tuning": tuning}).axes[0]
    for arm in content["grid"]["arms"]:
        own = [line for line in axes.lines if line.get_color() == figures.COLOURS[arm["method"]]]
        assert drawn_of(axes, arm["label"]) == [(lr, pytest.approx(lr * 10 + 0.3)) for lr in (3.16e-4, 1e-3, 3.16e-3)]
        rings = [line.get_data() for line in own if line.get_markerfacecolor() == "none"]
        crosses = [line.get_data() for line in own if line.get_marker() == "x"]
        chosen = 1e-3 if arm["id"] == LORA else 3.16e-4
        assert [list(x) for x, _ in rings] == [[chosen]] and [list(x) for x, _ in crosses] == [[3.16e-3]]
        assert [*rings[0][1], *crosses[0][1]] == pytest.approx([chosen * 10 + 0.3, 0.3316])
    for label, marker in (("chosen", "o"), ("CLIP-T below the floor", "x")):
        [line] = [line for line in axes.lines if line.get_label() == label]
        assert line.get_marker() == marker
