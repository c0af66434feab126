"""Losses that are read in blocks, as on a GPU: a bad one is found at the next look, and what was good is saved."""

import json

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


def test_a_progress_line_tells_no_loss_before_the_first_look(tmp_path, tiny_sd1, photos):
    with Recorder(RunFolder.create(tmp_path / "run"), tiny_config(tiny_sd1, photos), 0, OnAGpu()) as recorder:
        for step in range(1, READ_EVERY + 1):
            assert recorder.in_words() == ""
            recorder.add(step, torch.tensor(0.5), torch.tensor(1.0), OPTIMIZER, 1.0, on_bad_loss=None)
        assert recorder.in_words() == "loss 0.5000"


def test_a_bad_step_is_found_before_a_checkpoint_would_hide_it(tmp_path, tiny_sd1, photos):
    saved = []
    run = RunFolder.create(tmp_path / "run")
    with pytest.raises(WorkError):
        record(run, tiny_config(tiny_sd1, photos), [1.0, NAN, 1.0], [1.0] * 3, saved.append, flush=True)
    assert saved == [1]


def test_with_loss_scaling_an_infinite_gradient_is_no_failure_and_an_infinite_loss_is(tmp_path, tiny_sd1, photos):
    config = tiny_config(tiny_sd1, photos)
    record(RunFolder.create(tmp_path / "one"), config, [1.0, 1.0], [INF, 1.0], None, flush=True)
    with pytest.raises(WorkError, match="the last checkpoint is the last good state"):
        record(RunFolder.create(tmp_path / "two"), config, [1.0, NAN], [1.0, NAN], None, flush=True)
