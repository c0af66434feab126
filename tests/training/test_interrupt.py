"""Asking a run to stop."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers.runs import adapter_tensors, tiny_config, train_tiny, train_tiny_to_step_2

from symdream.training import outputs, request
from symdream.training.run_folder import RunFolder
from symdream.training.session import run_training, train_from


def test_a_run_in_a_thread_trains_as_elsewhere_and_the_file_stops_it(tmp_path, tiny_sd1, photos, few_denoising_steps):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(train_tiny_to_step_2, tmp_path / "run", tiny_sd1, photos, steps=3).result()
        assert run.read_state()["status"] == "stopped" and run.read_state()["step"] == 2
        threads.submit(run_training, run, tiny_config(tiny_sd1, photos, steps=3), resume=True).result()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    there, here = adapter_tensors(run), adapter_tensors(train_tiny(tmp_path / "main", tiny_sd1, photos, steps=3))
    assert there.keys() == here.keys() and all(torch.equal(there[name], here[name]) for name in here)


def test_a_signal_in_the_last_step_lets_the_run_finish_and_stops_who_would_go_on(
    tmp_path, tiny_sd1, photos, few_denoising_steps, monkeypatch
):
    draw = outputs.write_samples

    def interrupted(run, config, base, step):
        if step == config.training.steps:
            signal.raise_signal(signal.SIGINT)
        return draw(run, config, base, step)

    monkeypatch.setattr(outputs, "write_samples", interrupted)
    flags = {"steps": 2, "sample_every": 1}
    run = RunFolder.create(tmp_path / "cell")
    with pytest.raises(KeyboardInterrupt):
        run_training(run, tiny_config(tiny_sd1, photos, **flags))
    assert run.read_state()["status"] == "finished" and adapter_tensors(run)

    words = ["--images", photos, "--class-noun", "toy", "--base", tiny_sd1, "--steps", 2, "--sample-every", 1]
    args = request.parse([*map(str, words), "-o", str(tmp_path / "alone")], "symdream train", "")
    assert train_from(args).read_state()["status"] == "finished"  # the command has nothing else to go on with
