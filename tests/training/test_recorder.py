"""Losses that are read in blocks, as on a GPU: a bad one is found at the next look, and what was good is saved."""

import json
import time

import pytest
import torch
from helpers.runs import tiny_config

from symdream.errors import WorkError
from symdream.training.recorder import READ_EVERY, Recorder
from symdream.training.run_folder import RunFolder


class OnAGpu:
    device = torch.device("cuda")  # nothing is put there: it says that looking costs a wait
    is_main_process = True


NAN, INF = float("nan"), float("inf")
OPTIMIZER = torch.optim.SGD([{"name": "unet", "params": [torch.nn.Parameter(torch.zeros(1))]}], lr=1.0)


def record(run, config, losses, norms, on_bad_loss, flush=False):
    with Recorder(run, config, 0, OnAGpu()) as recorder:
        for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), 1):
            recorder.add(step, torch.tensor(loss), torch.tensor(norm), OPTIMIZER, 1.0, on_bad_loss=on_bad_loss)
        if flush:
            recorder.flush()


@pytest.mark.parametrize(("loss", "norm"), [(NAN, NAN), (0.5, INF)])
def test_the_state_before_the_first_bad_step_is_saved_at_the_next_look(tmp_path, tiny_sd1, photos, loss, norm):
    run, saved = RunFolder.create(tmp_path / "run"), []
    losses, norms = [1.0] * READ_EVERY, [1.0] * READ_EVERY
    losses[2], norms[2] = loss, norm
    with pytest.raises(WorkError, match="Step 3 of 6: .*checkpoints/step-2"):
        record(run, tiny_config(tiny_sd1, photos), losses, norms, saved.append)
    assert saved == [2]
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [1, 2]


def test_a_progress_line_tells_the_loss_of_the_last_look(tmp_path, tiny_sd1, photos):
    with Recorder(RunFolder.create(tmp_path / "run"), tiny_config(tiny_sd1, photos), 0, OnAGpu()) as recorder:
        assert recorder.in_words() == ""
        for step in range(1, READ_EVERY + 1):
            recorder.add(step, torch.tensor(0.5 * step), torch.tensor(1.0), OPTIMIZER, 1.0, on_bad_loss=None)
            assert step == READ_EVERY or recorder.in_words() == "loss 0.5000"
        assert recorder.in_words() != "loss 0.5000"


def test_the_smoothed_loss_moves_a_twentieth_of_the_way_at_each_step(tmp_path, tiny_sd1, photos):
    with Recorder(RunFolder.create(tmp_path / "run"), tiny_config(tiny_sd1, photos), 0, OnAGpu()) as recorder:
        for step, loss in enumerate((1.0, 3.0, 0.5), 1):
            recorder.add(step, torch.tensor(loss), torch.tensor(1.0), OPTIMIZER, 1.0, on_bad_loss=None)
        recorder.flush()
        assert recorder.smooth_loss == pytest.approx(0.95 * (0.95 * 1.0 + 0.05 * 3.0) + 0.05 * 0.5)


def test_the_median_leaves_out_the_first_step(tmp_path, tiny_sd1, photos):
    with Recorder(RunFolder.create(tmp_path / "run"), tiny_config(tiny_sd1, photos), 0, OnAGpu()) as recorder:
        recorder.seconds = [50.0]
        assert recorder.median_seconds() is None
        recorder.seconds += [1.0, 4.0]
        assert recorder.median_seconds() == 2.5


def test_a_run_that_goes_on_keeps_the_lines_up_to_its_checkpoint_and_looks_at_its_first_step(
    tmp_path, tiny_sd1, photos
):
    run, config, saved = RunFolder.create(tmp_path / "run"), tiny_config(tiny_sd1, photos), []
    record(run, config, [1.0] * 4, [1.0] * 4, saved.append, flush=True)
    (run.checkpoints / "step-2").mkdir(parents=True)
    with Recorder(run, config, 2, OnAGpu()) as recorder:
        assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [1, 2]
        with pytest.raises(WorkError, match="Step 3 of 6: .*the last checkpoint is the last good state"):
            recorder.add(3, torch.tensor(NAN), torch.tensor(NAN), OPTIMIZER, 1.0, on_bad_loss=saved.append)
    assert saved == []  # it is what the checkpoint holds


class FullBoard:
    def close(self) -> None:
        raise WorkError("Could not write the board: No space left on device.")


def test_a_board_that_cannot_be_closed_is_told_unless_the_run_ends_by_an_error_of_its_own(tmp_path, tiny_sd1, photos):
    config = tiny_config(tiny_sd1, photos)
    with (
        pytest.raises(WorkError, match="No space left"),
        Recorder(RunFolder(tmp_path), config, 0, OnAGpu()) as recorder,
    ):
        recorder.boards = [FullBoard()]
    with (
        pytest.raises(KeyError, match="what went wrong"),
        Recorder(RunFolder(tmp_path), config, 0, OnAGpu()) as recorder,
    ):
        recorder.boards = [FullBoard()]
        raise KeyError("what went wrong")


class Later:
    """A number on a device that is still at work: reading it waits."""

    def __init__(self, at: float):
        self.at = at

    def __float__(self) -> float:
        time.sleep(max(0.0, self.at - time.monotonic()))
        return 0.5


def test_a_steps_seconds_are_those_of_the_device_and_not_of_the_launch(tmp_path, tiny_sd1, photos):
    run, steps, step_seconds = RunFolder.create(tmp_path / "run"), 2 * READ_EVERY + 5, 0.02
    with Recorder(run, tiny_config(tiny_sd1, photos), 0, OnAGpu()) as recorder:
        done = time.monotonic()
        for step in range(1, steps + 1):
            done = max(done, time.monotonic()) + step_seconds
            recorder.add(step, Later(done), Later(done), OPTIMIZER, 1.0, on_bad_loss=None)
        recorder.flush()
    seconds = [json.loads(line)["seconds"] for line in run.metrics.read_text().splitlines()]
    assert len(seconds) == steps and recorder.median_seconds() >= 0.99 * step_seconds
    assert min(seconds) >= 0.99 * step_seconds


def test_what_a_run_does_between_steps_is_no_steps_time(tmp_path, tiny_sd1, photos):
    run = RunFolder.create(tmp_path / "run")
    with Recorder(run, tiny_config(tiny_sd1, photos), 0, OnAGpu()) as recorder:
        for step in range(1, 7):
            recorder.add(step, torch.tensor(0.5), torch.tensor(1.0), OPTIMIZER, 1.0, on_bad_loss=None)
            if step == 4:
                recorder.flush()
                time.sleep(2)
                recorder.show(step, {})
        recorder.flush()
    assert sum(json.loads(line)["seconds"] for line in run.metrics.read_text().splitlines()) < 2


def test_a_bad_step_is_found_before_a_checkpoint_would_hide_it(tmp_path, tiny_sd1, photos):
    saved = []
    run = RunFolder.create(tmp_path / "run")
    with pytest.raises(WorkError):
        record(run, tiny_config(tiny_sd1, photos), [1.0, NAN, 1.0], [1.0] * 3, saved.append, flush=True)
    assert saved == [1]


def test_with_loss_scaling_an_infinite_gradient_is_no_failure_and_an_infinite_loss_is(tmp_path, tiny_sd1, photos):
    config = tiny_config(tiny_sd1, photos)
    record(RunFolder.create(tmp_path / "one"), config, [1.0, 1.0], [INF, 1.0], None, flush=True)
    for name, kept in (("two", "no checkpoint was saved before it"), ("three", "the last checkpoint is the last good")):
        run = RunFolder.create(tmp_path / name)
        if name == "three":
            (run.checkpoints / "step-1").mkdir(parents=True)
        with pytest.raises(WorkError, match=f"Step 2 of 6: .*{kept}"):
            record(run, config, [1.0, NAN], [1.0, NAN], None, flush=True)


@pytest.mark.parametrize(
    ("losses", "norms", "us", "failing"),
    [
        ([1.0, 1.0], [0.0, 0.0], [1.0, 1.0], 1),
        ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.5, 1.0], 2),  # u = 0 leaves SingLoRA without a gradient
        ([0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], 2),  # so does a batch whose weights are all 0
        ([1.0, 1.0], [INF, 0.0], [1.0, 1.0], None),
        ([0.0, 1.0, 1.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0], None),
    ],
)
def test_the_first_gradient_that_can_be_judged_must_not_be_zero(tmp_path, tiny_sd1, photos, losses, norms, us, failing):
    config = tiny_config(tiny_sd1, photos)

    def record_all():
        with Recorder(RunFolder.create(tmp_path / "run"), config, 0, OnAGpu()) as recorder:
            for step, (loss, norm, u) in enumerate(zip(losses, norms, us, strict=True), 1):
                recorder.add(step, torch.tensor(loss), torch.tensor(norm), OPTIMIZER, u, on_bad_loss=None)
            recorder.flush()

    if failing is None:
        return record_all()
    with pytest.raises(WorkError, match=f"Step {failing} of 6: .*gradient norm 0"):
        record_all()
