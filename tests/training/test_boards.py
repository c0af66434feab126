"""What a run shows in TensorBoard and wandb, read back from what they wrote."""

import importlib.util
import json

import pytest
import torch
from helpers.runs import symdream, tiny_config, train_tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from symdream.errors import RequestError
from symdream.settings import build, read_toml
from symdream.training.boards import open_boards
from symdream.training.recorder import SPECTRUM_EVERY, Recorder
from symdream.training.run_folder import RunFolder
from symdream.training.session import run_training


def events(run):
    read = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"scalars": 0, "histograms": 0})
    read.Reload()
    return read


def scalars(run, name):
    return {event.step: event.value for event in events(run).Scalars(name)}


def test_tensorboard_shows_every_number_of_every_step_and_the_samples(tmp_path, tiny_sd1, photos, few_denoising_steps):
    run = train_tiny(tmp_path / "run", tiny_sd1, photos, tensorboard=True, steps=2, sample_every=1)
    written = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    for name, key in (("loss", "loss"), ("gradient norm", "grad_norm"), ("u", "u"), ("seconds per step", "seconds")):
        assert scalars(run, name) == pytest.approx({line["step"]: line[key] for line in written})
    assert scalars(run, "lr/unet") == pytest.approx({1: 1e-3, 2: 1e-3})
    assert scalars(run, "lr/text_encoder").keys() == {1, 2}
    assert scalars(run, "peak memory in GiB")[2] == pytest.approx(written[1]["memory"] / 2**30)
    assert [event.step for event in events(run).Images("samples")] == [1, 2]


class OneProcess:
    device = torch.device("cpu")
    is_main_process = True
    num_processes = 1


def test_the_spectrum_of_symlora_is_shown_for_each_component(tmp_path, tiny_sd1, photos):
    run = RunFolder.create(tmp_path / "run")
    config = tiny_config(tiny_sd1, photos, method="symlora", tensorboard=True)
    values = {
        "unet": [[9.0, 9.0]],
        "unet.symlora_lambda": [[-2.0, 1.0]],
        "text_encoder.symlora_lambda": [[3.0], [-1.0], [5.0]],
    }
    groups = [
        {"name": name, "params": [torch.nn.Parameter(torch.tensor(numbers)) for numbers in layers]}
        for name, layers in values.items()
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    with Recorder(run, config, 0, OneProcess()) as recorder:
        for step in range(1, SPECTRUM_EVERY + 1):
            recorder.add(step, torch.tensor(0.5), torch.tensor(1.0), optimizer, 1.0, on_bad_loss=lambda _: None)
    at = {SPECTRUM_EVERY}
    assert scalars(run, "lambda/unet min") == {SPECTRUM_EVERY: -2}
    assert scalars(run, "lambda/unet negative share") == {SPECTRUM_EVERY: 0.5}
    assert scalars(run, "lambda/text_encoder max") == {SPECTRUM_EVERY: 5}
    assert scalars(run, "lambda/text_encoder negative share") == {SPECTRUM_EVERY: pytest.approx(1 / 3)}
    [histogram] = events(run).Histograms("lambda/text_encoder")
    assert {histogram.step} == at and histogram.histogram_value.num == 3


def test_after_a_resume_tensorboard_shows_each_step_once(tmp_path, tiny_sd1, photos):
    run = train_tiny(tmp_path / "run", tiny_sd1, photos, tensorboard=True, steps=3, checkpoint_every=1, keep=3)
    before = scalars(run, "loss")
    for lost in ("step-3",):
        (run.checkpoints / lost / "SHA256SUMS").unlink()
    run_training(RunFolder.open(run.path), build(read_toml(run.config)), resume=True)
    steps = [event.step for event in events(run).Scalars("loss")]
    assert steps == [1, 2, 3] and scalars(run, "loss") == before


def test_asking_for_wandb_where_it_is_not_installed_is_refused_at_once(tmp_path, photos, monkeypatch):
    from symdream.training import request

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else real(name, *rest))
    argv = ["--images", str(photos), "--class-noun", "toy", "--wandb", "-o", str(tmp_path / "run")]
    with pytest.raises(RequestError, match=r"output\.wandb\s+is not installed.*symdream\[wandb\]"):
        request.read_request(request.parse(argv, "symdream train", ""))


def test_a_library_call_without_wandb_is_refused_too(tmp_path, tiny_sd1, photos, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)  # what Python itself does for a module that must not be imported
    with pytest.raises(RequestError, match="not installed"):
        open_boards(RunFolder.create(tmp_path / "run"), tiny_config(tiny_sd1, photos, wandb=True), 0)


@pytest.mark.slow
def test_wandb_offline_keeps_every_step_of_a_run_and_of_its_resume(tmp_path, tiny_sd1, photos, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    options = ["--images", photos, "--class-noun", "toy", "--base", tiny_sd1, "--rank", "4", "--steps", "3"]
    options += ["--batch-size", "1", "--device", "cpu", "--checkpoint-every", "1", "--keep", "3", "--wandb"]
    done = symdream("train", *options, "-o", tmp_path / "run")
    assert done.returncode == 0 and done.stdout == "", done.stderr
    run = RunFolder.open(tmp_path / "run")
    (run.checkpoints / "step-3" / "SHA256SUMS").unlink()
    run.write_state("stopped", step=2, steps=3)
    done = symdream("train", "--resume", run.path)
    assert done.returncode == 0 and done.stdout == "", done.stderr

    first, again = (wandb_steps(file) for file in sorted((run.path / "wandb").glob("offline-run-*/*.wandb")))
    written = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert first["loss"] == {line["step"]: line["loss"] for line in written}
    assert again["loss"] == {3: written[-1]["loss"]}
    folders = (run.path / "wandb").glob("offline-run-*")
    assert len({folder.name.rsplit("-", 1)[1] for folder in folders}) == 1, "one run, before and after"


def wandb_steps(file):
    """{name: {step: value}} of what wandb wrote while offline: protocol buffers in LevelDB's log format.

    Blocks of 32 KiB; a record in a block is crc32 (4 bytes), length (2), kind (1: whole, 2: first, 3: middle,
    4: last part), data. wandb puts 7 bytes of its own before everything.
    """
    from wandb.proto import wandb_internal_pb2

    content, place, parts, found = file.read_bytes(), 7, b"", {}
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):
            record = wandb_internal_pb2.Record.FromString(parts)
            row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            for name, value in row.items():
                found.setdefault(name, {})[row["step"]] = value
            parts = b""
    return found
