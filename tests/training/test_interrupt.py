"""Asking a run to stop."""

import signal
from concurrent.futures import ThreadPoolExecutor

import torch
from helpers.runs import adapter_tensors, tiny_config, train_tiny, train_tiny_to_step_2

from symdream.training.session import run_training


def test_a_run_in_a_thread_trains_as_elsewhere_and_the_file_stops_it(tmp_path, tiny_sd1, photos, few_denoising_steps):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(train_tiny_to_step_2, tmp_path / "run", tiny_sd1, photos, steps=3).result()
        assert run.read_state()["status"] == "stopped" and run.read_state()["step"] == 2
        threads.submit(run_training, run, tiny_config(tiny_sd1, photos, steps=3), resume=True).result()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    there, here = adapter_tensors(run), adapter_tensors(train_tiny(tmp_path / "main", tiny_sd1, photos, steps=3))
    assert there.keys() == here.keys() and all(torch.equal(there[name], here[name]) for name in here)
