"""The criterion and its consequences, on scores that are constructed."""

import json

import pytest
import torch
from helpers.runs import tiny_config
from hypothesis import given
from hypothesis import strategies as st

from symdream.errors import RequestError, WorkError
from symdream.metrics.prompts import PHOTO_SCENES, PHOTO_SELECTION, SPRITE_SCENES, SPRITE_SELECTION
from symdream.training.checkpoint import best_of, list_checkpoints, mark_best, save_checkpoint
from symdream.training.criterion import Scale, Scores, best, exhausted
from symdream.training.run_folder import RunFolder
from symdream.training.selection import WEIGHTS, Selection

# The owl on sprite (a prototype's figures): base, photos among themselves, photos against the prompts.
OWL = Scale(Scores(-0.19, 0.783), Scores(0.87, 0.04))
numbers = st.floats(-1, 1)


def test_the_score_is_the_harmonic_mean_of_both_shares():
    scores = Scores(0.31, 0.403)
    i, o = (0.31 + 0.19) / (0.87 + 0.19), (0.403 - 0.04) / (0.783 - 0.04)
    assert OWL.likeness(scores) == pytest.approx(i) and OWL.obedience(scores) == pytest.approx(o)
    assert OWL.score(scores) == pytest.approx(2 / (1 / i + 1 / o))


def test_base_and_photo_copier_score_nothing_and_the_true_subject_most():
    assert OWL.score(OWL.base) == 0
    assert OWL.score(OWL.photos) == 0
    hot, good, timid = Scores(0.36, 0.309), Scores(0.31, 0.403), Scores(0.10, 0.513)
    ideal = Scores(0.87, 0.467)
    assert OWL.score(hot) < OWL.score(good) > OWL.score(timid) and OWL.score(ideal) > OWL.score(good)


@given(numbers, numbers, st.floats(0, 1), st.floats(0, 1))
def test_more_of_either_is_never_worse(dino, clip_t, more_dino, more_clip_t):
    score = OWL.score(Scores(dino, clip_t))
    assert 0 <= score <= 1
    assert OWL.score(Scores(dino + more_dino, clip_t)) >= score
    assert OWL.score(Scores(dino, clip_t + more_clip_t)) >= score


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4), numbers, numbers)
def test_a_scale_whose_ends_meet_or_are_the_wrong_way_round_still_gives_numbers(ends, dino, clip_t):
    assert 0 <= Scale(Scores(*ends[:2]), Scores(*ends[2:])).score(Scores(dino, clip_t)) <= 1


@pytest.mark.parametrize(
    ("scores", "patience", "ends_at"),
    [
        ([0.1, 0.3, 0.2, 0.29, 0.5], 2, 4),  # two after 0.3 were no better: the 0.5 is never reached
        ([0.1, 0.3, 0.2, 0.31, 0.2, 0.1], 2, 6),  # 0.31 began the count anew
        ([0.3, 0.3, 0.3], 2, 3),  # as good is not better
        ([0.1, 0.2, 0.3], 1, None),
        ([0.3, 0.2, 0.1], 0, None),  # no patience asked for: to the end
        ([0.3], 1, None),
    ],
)
def test_patience_ends_a_constructed_sequence_where_it_should(scores, patience, ends_at):
    ends = [n for n in range(1, len(scores) + 1) if exhausted(scores[:n], patience)]
    assert (ends[0] if ends else None) == ends_at


def test_of_equally_good_states_the_first_is_the_best():
    assert best([0.1, 0.5, 0.5, 0.2]) == 1


@pytest.mark.parametrize(("own", "reports"), [(SPRITE_SELECTION, SPRITE_SCENES), (PHOTO_SELECTION, PHOTO_SCENES)])
def test_selection_and_reports_share_no_scene(own, reports):
    assert not {p.text for p in own.prompts} & {p.text for p in reports.prompts}
    assert all("{subject}" in p.text for p in own.prompts)


class Scripted:
    """A judge whose scores are written down beforehand: likeness by (step, weight), obedience always whole.

    Which state it is shown it reads off the one trained number, which the tests below set to the step.
    """

    def __init__(self, parameter, layer, likeness):
        self.parameter, self.layer, self.likeness, self.asked = parameter, layer, likeness, []

    def protocol(self):
        return {"prompts": [("tuples", "become"), ["lists"]]}

    def scale(self):
        return Scale(Scores(0.0, 1.0), Scores(1.0, 0.0))

    def scores(self):
        state = (int(self.parameter), self.layer.weight)
        self.asked.append(state)
        return Scores(self.likeness.get(state, 0.05), 1.0)


class OneProcess:
    num_processes = 1


class Run:
    """What `train` does with a Selection, step by step, with one number for an adapter."""

    def __init__(self, folder, base, photos, likeness, *, keep=1, steps=60, every=10, patience=2, first=0, saved=None):
        self.run = RunFolder(folder)
        folder.mkdir(exist_ok=True)
        self.config = tiny_config(
            base, photos, method="symlora", steps=steps, select_every=every, patience=patience, keep=keep
        )
        self.parameter = torch.nn.Parameter(torch.tensor(float(first)))
        self.optimizer = torch.optim.SGD([self.parameter], lr=1.0)
        self.layer = Layer()
        self.judge = Scripted(self.parameter, self.layer, likeness)
        self.trainable = {"unet": {"step": self.parameter}}
        self.selection = Selection(
            self.run, self.config, FakeBase(self.layer), self.trainable, self.judge, first, saved or {}
        )
        self.shown = {}

    def train(self, first=0, *, until=None):
        """Returns the step at which the run ended, or None if it was left after the checkpoint of `until`."""
        done, steps = first, self.config.training.steps
        if self.selection.due(done):
            self.selection.score(done, self.shown.__setitem__)
        while done < steps and not self.selection.patience_is_over(done, OneProcess()):
            done += 1
            self.parameter.data.fill_(done)
            if self.selection.due(done):
                extra = {"selection": self.selection.content()}
                keep = self.config.output.keep
                save_checkpoint(self.run.checkpoints, done, self.trainable, self.optimizer, extra, keep=keep)
            if done == until:
                return None
            if self.selection.due(done):
                self.selection.score(done, self.shown.__setitem__)
        return done

    def left(self):
        return {path.name for path in list_checkpoints(self.run.checkpoints)}


class Layer(torch.nn.Module):
    weight = 1.0


class FakeBase:
    def __init__(self, layer):
        self.layer = layer

    def components(self):
        return {"unet": self.layer}


@pytest.fixture(autouse=True)
def weights_reach_the_layer(monkeypatch):
    monkeypatch.setattr(
        "symdream.training.selection.set_weight", lambda base, weight: setattr(base.layer, "weight", weight)
    )


RISE_AND_FALL = {(10, 1.0): 0.2, (20, 1.0): 0.6, (30, 1.0): 0.4, (40, 1.0): 0.5, (50, 1.0): 0.9}


def test_the_run_ends_when_patience_is_over_and_takes_the_best_state_at_its_best_weight(
    tmp_path, tiny_sd1, photos, capsys
):
    one = Run(tmp_path / "run", tiny_sd1, photos, RISE_AND_FALL | {(20, 0.8): 0.7, (20, 1.2): 0.3})
    assert one.train() == 40
    said = capsys.readouterr().err
    assert "Stopping after step 40 of 60: 2 scores in a row were no better than that of step 20" in said
    chosen = one.selection.restore_best(40)
    assert (chosen.step, chosen.weight) == (20, 0.8)
    assert int(one.parameter) == 20, "its adapter is on the base"
    assert one.layer.weight == 1.0
    summary = one.run.read_summary()["selection"]
    assert {k: summary[k] for k in ("step", "weight", "dino", "clip_t")} == {
        "step": 20,
        "weight": 0.8,
        "dino": 0.7,
        "clip_t": 1.0,
    }
    assert "Training ended at step 40 of 60" in summary["reason"] and "best of 4 states" in summary["reason"]
    assert sorted(one.judge.asked[4:]) == sorted((20, w) for w in WEIGHTS if w != 1.0), "weight 1 was known"
    assert one.shown[20]["selection/DINO"] == 0.6


def test_the_best_checkpoint_outlives_pruning_and_the_one_it_replaced_does_not(tmp_path, tiny_sd1, photos):
    one = Run(tmp_path / "run", tiny_sd1, photos, RISE_AND_FALL, keep=1, patience=0)
    one.train(until=30)
    assert one.left() == {"step-20", "step-30"} and best_of(one.run.checkpoints).name == "step-20"
    assert one.train(first=30) == 60
    assert one.left() == {"step-50", "step-60"} and best_of(one.run.checkpoints).name == "step-50"


@pytest.mark.parametrize("until", [10, 20, 30, 40])
@pytest.mark.parametrize("file", ["kept", "truncated", "gone"])
def test_a_resumed_run_decides_as_an_unbroken_one_and_scores_nothing_twice(tmp_path, tiny_sd1, photos, until, file):
    """Left between a checkpoint and its score, where the file of scores is intact, half written or lost."""
    likeness = RISE_AND_FALL | {(20, 1.2): 0.8}
    whole = Run(tmp_path / "whole", tiny_sd1, photos, likeness)
    whole_end = whole.train()
    whole_choice = whole.selection.restore_best(whole_end)

    broken = Run(tmp_path / "broken", tiny_sd1, photos, likeness)
    assert broken.train(until=until) is None
    if broken.selection.file.exists():
        if file == "truncated":
            broken.selection.file.write_text(broken.selection.file.read_text()[:50])
        if file == "gone":
            broken.selection.file.unlink()
    saved = json.loads((broken.run.checkpoints / f"step-{until}" / "state.json").read_text())["selection"]
    again = Run(tmp_path / "broken", tiny_sd1, photos, likeness, first=until, saved=saved)
    end = again.train(first=until)
    assert (end, again.selection.restore_best(end)) == (whole_end, whole_choice)
    assert again.selection.file.read_text() == whole.selection.file.read_text()
    assert best_of(again.run.checkpoints).name == "step-20"
    assert broken.judge.asked + again.judge.asked == whole.judge.asked


def test_scores_of_states_that_a_resume_trains_again_are_dropped(tmp_path, tiny_sd1, photos):
    one = Run(tmp_path / "run", tiny_sd1, photos, RISE_AND_FALL, keep=3)
    one.train(until=30)
    again = Run(tmp_path / "run", tiny_sd1, photos, {(20, 1.0): 0.1, (10, 1.0): 0.2}, first=10)
    again.train(first=10, until=20)
    again.train(first=20, until=21)
    assert (20, 1.0) in again.judge.asked and (10, 1.0) not in again.judge.asked
    assert best_of(again.run.checkpoints).name == "step-10"


def test_a_resume_with_other_prompts_or_encoders_is_refused(tmp_path, tiny_sd1, photos, monkeypatch):
    one = Run(tmp_path / "run", tiny_sd1, photos, RISE_AND_FALL)
    one.train(until=20)
    monkeypatch.setattr(Scripted, "protocol", lambda self: {"prompts": "others"})
    with pytest.raises(RequestError, match="not those that"):
        Run(tmp_path / "run", tiny_sd1, photos, RISE_AND_FALL, first=20)


def test_a_run_that_begins_anew_keeps_no_scores_of_before(tmp_path, tiny_sd1, photos, monkeypatch):
    """As after a resume without one intact checkpoint; prompts and encoders may be others then."""
    Run(tmp_path / "run", tiny_sd1, photos, RISE_AND_FALL).train(until=30)
    monkeypatch.setattr(Scripted, "protocol", lambda self: {"prompts": "others"})
    assert Run(tmp_path / "run", tiny_sd1, photos, RISE_AND_FALL).selection.content() == {}


def test_of_equally_good_states_the_first_is_restored(tmp_path, tiny_sd1, photos):
    one = Run(tmp_path / "run", tiny_sd1, photos, {(10, 1.0): 0.2, (20, 1.0): 0.6, (30, 1.0): 0.6}, keep=6)
    assert one.selection.restore_best(one.train()).step == 20 and int(one.parameter) == 20


def test_the_last_state_is_scored_where_it_is_no_multiple_too(tmp_path, tiny_sd1, photos):
    likeness = {(10, 1.0): 0.2, (20, 1.0): 0.3, (25, 1.0): 0.6}
    one = Run(tmp_path / "run", tiny_sd1, photos, likeness, steps=25)
    assert [step for step in range(26) if one.selection.due(step)] == [10, 20, 25]
    assert one.selection.restore_best(one.train()).step == 25 and int(one.parameter) == 25


@pytest.mark.parametrize(
    ("likeness", "weight"),
    [
        ({1.0: 0.6, 0.8: 0.6, 1.2: 0.6, 0.6: 0.6}, 1.0),  # as trained
        ({1.0: 0.6, 0.8: 0.7, 1.2: 0.7, 0.6: 0.7}, 0.8),
        ({1.0: 0.6, 0.8: 0.6, 1.2: 0.7, 0.6: 0.7}, 1.2),
    ],
)
def test_of_equally_good_weights_the_nearest_to_1_is_recommended(tmp_path, tiny_sd1, photos, likeness, weight):
    one = Run(tmp_path / "run", tiny_sd1, photos, {(10, w): score for w, score in likeness.items()}, steps=10)
    assert one.selection.restore_best(one.train()).weight == weight


def test_a_damaged_best_checkpoint_is_named_and_the_next_best_taken(tmp_path, tiny_sd1, photos, capsys):
    one = Run(tmp_path / "run", tiny_sd1, photos, RISE_AND_FALL, keep=5)
    end = one.train()
    (one.run.checkpoints / "step-20" / "adapter-unet.safetensors").write_bytes(b"half")
    assert one.selection.restore_best(end).step == 40 and int(one.parameter) == 40
    assert best_of(one.run.checkpoints).name == "step-40"
    assert "step-20 is damaged" in capsys.readouterr().err
    for path in list_checkpoints(one.run.checkpoints):
        (path / "SHA256SUMS").unlink()
    with pytest.raises(WorkError, match="No checkpoint"):
        one.selection.restore_best(end)


def test_without_a_judge_the_last_state_is_taken_and_nothing_written(tmp_path, tiny_sd1, photos):
    run = RunFolder.create(tmp_path / "run")
    config = tiny_config(tiny_sd1, photos, steps=3)
    selection = Selection(run, config, None, {}, None, 0, {})
    selection.score(3, None)
    assert not any(selection.patience_is_over(step, OneProcess()) for step in range(4))
    assert not any(selection.due(step) for step in range(4))
    chosen = selection.restore_best(3)
    assert (chosen.step, chosen.weight) == (3, None) and selection.content() == {}
    assert list(run.path.iterdir()) == []


def test_a_mark_that_was_cut_short_marks_nothing(tmp_path):
    mark_best(tmp_path, 10)
    assert best_of(tmp_path) == tmp_path / "step-10"
    (tmp_path / "best").write_text("step-")
    assert best_of(tmp_path) is None
