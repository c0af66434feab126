"""The trainer as a whole, on tiny models of the real shapes."""

import fcntl
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
import tomllib
from pathlib import Path

import pytest
import torch
from helpers.runs import adapter_tensors, make_photos, stop_after, symdream, tiny_config, train_tiny
from safetensors.torch import load_file, save_file

from symdream.errors import RequestError, Stopped, WorkError
from symdream.settings import read_toml, to_toml
from symdream.training.run_folder import RunFolder
from symdream.training.session import run_training

METHODS = ["lora", "lora+", "dora", "singlora", "symlora"]


def lines(run):
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def assert_same_adapter(one, other):
    ours, theirs = adapter_tensors(one), adapter_tensors(other)
    assert ours.keys() == theirs.keys() and ours
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("method", METHODS)
def test_stopped_after_3_steps_and_resumed_equals_6_unbroken_steps(tmp_path, tiny_sd1, photos, method):
    options = {"method": method, "lr_schedule": "cosine", "warmup": 0.5}
    whole = train_tiny(tmp_path / "whole", tiny_sd1, photos, **options)

    broken = RunFolder.create(tmp_path / "broken")
    config = tiny_config(tiny_sd1, photos, checkpoint_every=1, **options)
    stop_after(broken, 3)
    with pytest.raises(Stopped, match="after step 3 of 6"):
        run_training(broken, config)
    assert broken.read_state()["status"] == "stopped"
    run_training(broken, tiny_config_of(broken), resume=True)
    assert_same_adapter(whole, broken)
    assert [line["loss"] for line in lines(whole)] == [line["loss"] for line in lines(broken)]


def tiny_config_of(run):
    from symdream.settings import build

    return build(read_toml(run.config))


@pytest.mark.parametrize("base", ["tiny_sd1", "tiny_sd2"])
@pytest.mark.parametrize("components", ["unet", "text_encoder", "both"])
def test_each_component_learns_on_each_family(tmp_path, request, photos, base, components):
    folder = request.getfixturevalue(base)
    run = train_tiny(tmp_path / "run", folder, photos, components=components, method="symlora", steps=2)
    tensors = adapter_tensors(run)
    assert {name.split(".")[0] for name in tensors} == (
        {"unet", "text_encoder"} if components == "both" else {components}
    )
    moved = [name for name, t in tensors.items() if name.endswith("symlora_lambda") and t.abs().max() > 0]
    assert moved, "Λ starts at 0 and must have moved"


@pytest.mark.parametrize("method", METHODS)
def test_the_saved_adapter_is_a_peft_adapter_that_changes_the_output_as_in_training(tmp_path, tiny_sd1, photos, method):
    from peft import PeftModel

    from symdream.diffusion.adapters import attach_saved
    from symdream.diffusion.base import load_base

    run = train_tiny(tmp_path / "run", tiny_sd1, photos, method=method, steps=2, lr=1e-2)
    x, t, text = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 77, 32)
    with torch.no_grad():
        plain = load_base(str(tiny_sd1))
        before = plain.unet(x, t, text).sample
        ours = load_base(str(tiny_sd1))
        metadata = attach_saved(ours, run.adapter)
        expected = ours.unet(x, t, text).sample
        peft = PeftModel.from_pretrained(load_base(str(tiny_sd1)).unet, str(run.adapter / "unet"))
        assert torch.equal(peft(x, t, text).sample, expected)
    assert (expected - before).abs().max() > 1e-4
    assert metadata["method"] == method and metadata["trigger"] == "sks" and metadata["class_noun"] == "toy"


# At 64 pixels the tiny UNet's lowest level is one pixel, where GroupNorm divides by nothing but its ε and blows
# rounding up by orders of magnitude; at 128 gradients agree to 1e-6.
SMOOTH = {"components": "unet", "resolution": 128}


def test_accumulation_equals_a_larger_batch(tmp_path, tiny_sd1, photos):
    one = train_tiny(tmp_path / "one", tiny_sd1, photos, batch_size=4, steps=2, **SMOOTH)
    two = train_tiny(tmp_path / "two", tiny_sd1, photos, batch_size=2, accumulation=2, steps=2, **SMOOTH)
    assert_same_up_to_rounding(one, two)


def assert_same_up_to_rounding(one, two):
    for a, b in zip(lines(one), lines(two), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
    # Adam turns the rounding of a gradient that is nearly 0 into a whole step: a few elements may differ.
    differences = torch.cat(
        [
            (a - b).abs().flatten()
            for a, b in zip(adapter_tensors(one).values(), adapter_tensors(two).values(), strict=True)
        ]
    )
    assert (differences > 1e-6).float().mean() < 0.01


def test_the_run_folder_tells_everything(tmp_path, tiny_sd1, photos):
    run = train_tiny(
        tmp_path / "run é", tiny_sd1, photos, steps=4, checkpoint_every=2, sample_every=2, keep=1, tensorboard=True
    )
    assert run.read_state() == {"status": "finished", "pid": os.getpid(), "step": 4, "steps": 4, "error": None}
    assert [line["step"] for line in lines(run)] == [1, 2, 3, 4]
    assert {"loss", "lr", "u", "seconds", "memory"} <= lines(run)[0].keys()
    assert [p.name for p in run.checkpoints.iterdir()] == ["step-4"]
    assert {p.name for p in run.samples.iterdir()} == {
        "trigger-before-training.png",
        "step-00002.png",
        "step-00004.png",
    }
    assert list((run.path / "tensorboard").iterdir())
    assert {p.stat().st_mode for p in run.path.rglob("*") if p.is_file()} == {run.config.stat().st_mode}
    summary = run.read_summary()
    assert summary["trainable_parameters"] < 0.55 * summary["lora_parameters_at_this_rank"]
    assert summary["seconds_total"] > summary["seconds_per_step"] > 0
    stored = tomllib.loads(run.config.read_text())
    assert stored["adapter"]["alpha"] == 4 and stored["training"]["text_encoder_lr"] > 0


def test_the_seconds_of_a_run_are_its_own_and_those_of_the_processes_that_it_goes_on_from(tmp_path, tiny_sd1, photos):
    began = time.time()
    run = RunFolder.create(tmp_path / "run")
    config = tiny_config(tiny_sd1, photos, steps=2, checkpoint_every=1)
    run_training(run, config)
    assert 0 < run.read_summary()["seconds_total"] <= time.time() - began  # this process is older
    run = RunFolder.create(tmp_path / "run", overwrite=True)
    run_training(run, config, age=1000)
    shutil.rmtree(run.checkpoints / "step-2")
    resumed = RunFolder.open(run.path)
    run_training(resumed, config, resume=True)
    assert 1000 < resumed.read_summary()["seconds_total"] < 1000 + time.time() - began


CLOCK = """
import os, sys, time
from symdream.cli import main

tell, jump, log = time.time, float(sys.argv[1]), os.path.join(sys.argv[2], "log.txt")
time.time = lambda: tell() + (jump if os.path.exists(log) else 0)  # once the run has begun
code = main(["train", *sys.argv[3:], "-o", sys.argv[2]])
assert abs(time.time() - tell()) > 1e5
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_a_clock_that_jumps_changes_nothing_in_the_seconds_of_a_run(tmp_path, tiny_sd1, photos, jump):
    config, run = tiny_config(tiny_sd1, photos, steps=2, checkpoint_every=1), RunFolder(tmp_path / "run")
    file = tmp_path / "settings.toml"
    file.write_text(to_toml(config))
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", CLOCK, str(jump), run.path, "--config", file], timeout=300)
    assert done.returncode == 0
    assert 0 < run.read_summary()["seconds_total"] < time.monotonic() - began + 1  # of a start, known to 0.01 s
    shutil.rmtree(run.checkpoints / "step-2")
    run_training(run, config, resume=True)
    assert 0 < run.read_summary()["seconds_total"] < time.monotonic() - began + 1


def test_config_toml_runs_again_to_the_same_adapter(tmp_path, tiny_sd1, photos):
    first = train_tiny(tmp_path / "first", tiny_sd1, photos, steps=2)
    again = RunFolder.create(tmp_path / "again")
    run_training(again, tiny_config_of(first))
    assert_same_adapter(first, again)


def test_different_seeds_give_different_adapters(tmp_path, tiny_sd1, photos):
    a = adapter_tensors(train_tiny(tmp_path / "a", tiny_sd1, photos, steps=1, seed=1))
    b = adapter_tensors(train_tiny(tmp_path / "b", tiny_sd1, photos, steps=1, seed=2))
    assert all(not torch.equal(a[name], b[name]) for name in a)


def test_a_loss_that_is_not_finite_stops_with_the_last_good_state(tmp_path, tiny_sd1, photos):
    run = RunFolder.create(tmp_path / "run")
    with pytest.raises(WorkError, match=r"Step \d+ of 40: loss") as caught:
        run_training(run, tiny_config(tiny_sd1, photos, method="lora", lr=1e30, max_grad_norm=0, steps=40))
    assert "lower --lr" in caught.value.fix
    assert run.read_state()["status"] == "failed"
    from symdream.training.checkpoint import newest_intact

    saved = newest_intact(run.checkpoints)
    assert saved is not None and saved.name in str(caught.value)


def base_with(base, folder, part, weight, value):
    """A copy of `base` in which one weight of a part is filled with `value`."""
    shutil.copytree(base, folder)
    (file,) = (folder / part).glob("*.safetensors")
    weights = load_file(file)
    weights[weight].fill_(value)
    save_file(weights, file, {"format": "pt"})
    return folder


def test_a_first_step_without_a_gradient_ends_the_run(tmp_path, tiny_sd1, photos):
    base = base_with(tiny_sd1, tmp_path / "zero", "unet", "conv_out.weight", 0)
    with pytest.raises(WorkError, match="Step 1 of 6: loss .* gradient norm 0") as caught:
        train_tiny(tmp_path / "run", base, photos)
    assert f"symdream base check {base}" in caught.value.fix
    assert json.loads((tmp_path / "run" / "state.json").read_text())["status"] == "failed"


@pytest.mark.filterwarnings("error:invalid value:RuntimeWarning")
@pytest.mark.parametrize(
    ("part", "weight", "trigger_is_drawn"),
    [
        ("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight", False),
        ("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight", True),
        ("vae", "encoder.conv_in.weight", True),
    ],
)
def test_a_base_with_nan_in_a_weight_is_told_as_such(tmp_path, tiny_sd1, photos, part, weight, trigger_is_drawn):
    base = base_with(tiny_sd1, tmp_path / "nan", part, weight, float("nan"))
    run = RunFolder.create(tmp_path / "run")
    if trigger_is_drawn:
        run.samples.mkdir()
        (run.samples / "trigger-before-training.png").touch()
    with pytest.raises(WorkError, match="The base .*is damaged") as caught:
        run_training(run, tiny_config(base, photos))
    assert caught.value.where == f"{part}.{weight}"
    assert "lower --lr" not in caught.value.fix and "symdream base check" in caught.value.fix
    assert trigger_is_drawn or not list(run.samples.glob("*.png"))


STARTS = [
    *({"method": method} for method in METHODS),
    *({"method": method, "components": "text_encoder", "text_encoder_lr": 1e-3, "lr": None} for method in METHODS),
    {"method": "singlora", "ramp": 1.0, "init": "small", "warmup": 1.0},
    {"method": "symlora", "targets": "qk", "components": "unet"},
]


@pytest.mark.parametrize("flags", STARTS, ids=lambda flags: "-".join(str(v) for v in flags.values()))
def test_every_method_has_a_gradient_at_its_first_step(tmp_path, tiny_sd1, photos, flags):
    run = train_tiny(tmp_path / "run", tiny_sd1, photos, steps=1, **flags)
    assert lines(run)[0]["grad_norm"] > 0


def test_resuming_with_other_photos_is_refused(tmp_path, tiny_sd1):
    photos = make_photos(tmp_path / "photos")
    run = train_tiny(tmp_path / "run", tiny_sd1, photos, steps=1)
    (photos / "01.png").unlink()
    with pytest.raises(RequestError, match="photos or captions"):
        run_training(run, tiny_config_of(run), resume=True)


def test_a_rank_larger_than_a_layer_is_refused_before_training(tmp_path, tiny_sd1, photos):
    with pytest.raises(RequestError, match=r"larger than unet\..* \(32 wide\)"):
        train_tiny(tmp_path / "run", tiny_sd1, photos, rank=33)


@pytest.mark.parametrize("method", ["lora", "singlora"])
def test_a_run_goes_on_from_an_adapter(tmp_path, tiny_sd1, photos, method):
    first = train_tiny(tmp_path / "first", tiny_sd1, photos, method=method, steps=2, lr=1e-2)
    options = {"method": method, "steps": 1, "lr": 1e-12, "text_encoder_lr": 1e-12, "weight_decay": 0.0}
    second = train_tiny(tmp_path / "second", tiny_sd1, photos, start_from=first.path, **options)
    fresh = train_tiny(tmp_path / "fresh", tiny_sd1, photos, seed=3, **options)
    before, after, other = adapter_tensors(first), adapter_tensors(second), adapter_tensors(fresh)
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-7, msg=name)
    assert any((other[name] - before[name]).abs().max() > 1e-3 for name in before)


def test_a_run_goes_on_without_the_adapter_it_began_with(tmp_path, tiny_sd1, photos):
    start = train_tiny(tmp_path / "start", tiny_sd1, photos, steps=2)
    whole = train_tiny(tmp_path / "whole", tiny_sd1, photos, start_from=start.path, steps=4)
    run = RunFolder.create(tmp_path / "run")
    config = tiny_config(tiny_sd1, photos, start_from=start.path, steps=4, checkpoint_every=2)
    run_training(run, config)
    shutil.rmtree(run.checkpoints / "step-4")  # as if it had been killed after step 2
    shutil.rmtree(start.path)
    run_training(run, tiny_config_of(run), resume=True)
    after, expected = adapter_tensors(run), adapter_tensors(whole)
    assert all(torch.equal(after[name], expected[name]) for name in expected)


def test_settings_that_no_longer_fit_a_checkpoint_are_told(tmp_path, tiny_sd1, photos):
    run = train_tiny(tmp_path / "run", tiny_sd1, photos, steps=3)
    config = tiny_config_of(run)
    config.training.steps = 2
    with pytest.raises(RequestError, match="step-3 is beyond the 2 steps"):
        run_training(run, config, resume=True)
    pytest.importorskip("prodigyopt")
    config = tiny_config_of(run)
    config.training.steps, config.training.optimizer = 4, "prodigy"
    with pytest.raises(WorkError, match=r"another optimizer \(AdamW\) than this run's \(Prodigy\)"):
        run_training(run, config, resume=True)


def test_captions_beside_photos_are_used(tmp_path, tiny_sd1):
    from symdream.data.photos import read_photos
    from symdream.training.defaults import resolve

    photos = make_photos(tmp_path / "photos")
    (photos / "01.txt").write_text("a {subject} on a\n red background\n", encoding="utf-8")
    from symdream.diffusion.base import load_base

    config = resolve(tiny_config(tiny_sd1, photos), load_base(str(tiny_sd1)))
    usual = "a photo of a sks toy"
    assert [photo.caption for photo in read_photos(config).photos] == [usual, "a sks toy on a red background", usual]


@pytest.mark.slow
def test_accelerate_launch_trains_from_the_file(tmp_path, tiny_sd1, photos):
    script = Path(__file__).parent.parent / "symdream" / "train.py"
    result = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu", str(script),
         "--images", str(photos), "--class-noun", "toy", "--base", str(tiny_sd1), "--steps", "2", "--rank", "4",
         "-o", str(tmp_path / "run")],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert RunFolder(tmp_path / "run").read_state()["status"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "device"),
    [
        (["accelerate.commands.launch", "--num_processes", "2", "--cpu"], ["--device", "cpu"]),
        # Nobody says that there is no GPU here: they train together all the same.
        (["accelerate.commands.launch", "--num_processes", "2"], []),
        (["torch.distributed.run", "--standalone", "--nproc-per-node", "2"], []),
    ],
)
def test_two_processes_equal_one_with_twice_the_batch(tmp_path, tiny_sd1, photos, launcher, device):
    common = ["--images", str(photos), "--class-noun", "toy", "--base", str(tiny_sd1), "--steps", "3", "--rank", "4",
              "--lr", "1e-3", "--components", "unet", "--resolution", "128", *device]  # fmt: skip
    script = str(Path(__file__).parent.parent / "symdream" / "train.py")
    two = subprocess.run(
        [sys.executable, "-m", *launcher, script, *common, "--batch-size", "2", "-o", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert two.returncode == 0, two.stderr
    one = symdream("train", *common, "--device", "cpu", "--batch-size", "4", "-o", tmp_path / "one")
    assert one.returncode == 0, one.stderr
    assert_same_up_to_rounding(RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two"))
    assert [line["step"] for line in lines(RunFolder(tmp_path / "two"))] == [1, 2, 3]


def endless(tmp_path, tiny_sd1, photos):
    """The run and the command of a training that only a signal ends."""
    command = [sys.executable, "-m", "symdream.cli", "train", "--images", str(photos), "--class-noun", "toy", "--base",
               str(tiny_sd1), "--steps", "100000", "--checkpoint-every", "0", "-o", str(tmp_path / "run")]  # fmt: skip
    return RunFolder(tmp_path / "run"), command


def wait_until_it_trains(run, meanwhile=lambda: time.sleep(0.2)):
    deadline = time.monotonic() + 120
    while not (run.samples.exists() and list(run.samples.iterdir())) and time.monotonic() < deadline:
        meanwhile()
    for _ in range(10):
        meanwhile()


def assert_saved(run):
    state = run.read_state()
    assert state["status"] == "stopped" and state["step"] >= 1
    assert (run.checkpoints / f"step-{state['step']}").is_dir() and (run.adapter / "unet").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_the_run_and_ends_with_130(tmp_path, tiny_sd1, photos, number):
    run, command = endless(tmp_path, tiny_sd1, photos)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_until_it_trains(run)
    process.send_signal(number)
    _, messages = process.communicate(timeout=120)
    assert process.returncode == 130, messages
    assert f"--resume {run.path}" in messages
    assert_saved(run)


@pytest.mark.slow
def test_a_closed_terminal_saves_the_run(tmp_path, tiny_sd1, photos):
    run, command = endless(tmp_path, tiny_sd1, photos)
    terminal, theirs = pty.openpty()

    def own_it():
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=own_it)
    os.close(theirs)
    shown = bytearray()

    def read():
        if select.select([terminal], [], [], 0.2)[0]:
            shown.extend(os.read(terminal, 65536))

    wait_until_it_trains(run, read)
    os.close(terminal)
    assert process.wait(timeout=120) == 130, shown.decode()
    assert b"training" in shown  # the bar was there
    assert_saved(run)


@pytest.mark.slow
def test_nohup_is_respected(tmp_path, tiny_sd1, photos):
    run, command = endless(tmp_path, tiny_sd1, photos)
    process = subprocess.Popen(
        ["nohup", *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until_it_trains(run)
    process.send_signal(signal.SIGHUP)
    time.sleep(2)
    assert process.poll() is None
    run.stop_file.touch()
    assert process.wait(timeout=120) == 130
    assert_saved(run)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rank", "0"], "adapter.rank = 0"),
        (["--lr", "-1"], "training.lr = -1"),
        (["--class-noun", ""], "subject.class_noun"),
        (["--images", "/nowhere/é"], "No folder /nowhere/é"),
        (["--template", "a photo"], "must contain {subject}"),
        (["--template", "a {subject} and a {sbject}"], "{sbject} stands for nothing; did you mean {subject}?"),
        (["--sample-prompts", "a {subject}", "a {sbject}"], "{sbject} stands for nothing; did you mean {subject}?"),
        (["--resume", "/nowhere"], "would change"),
        (["--components", "text_encoder", "--lr", "0.5"], "set text_encoder_lr"),
        (["--seed", str(2**63)], "training.seed"),
    ],
)
def test_a_wrong_request_ends_with_2_and_starts_nothing(tmp_path, photos, flags, message):
    usual = {"--images": photos, "--class-noun": "toy", "-o": tmp_path / "run"}
    kept = [word for flag, value in usual.items() if flag not in flags for word in (flag, value)]
    result = symdream("train", *kept, *flags)
    assert result.returncode == 2 and message in result.stderr, result.stderr
    assert not (tmp_path / "run").exists()


def test_a_finished_run_resumes_to_nothing(tmp_path, tiny_sd1, photos):
    run = train_tiny(tmp_path / "run", tiny_sd1, photos, steps=1)
    result = symdream("train", "--resume", run.path)
    assert result.returncode == 0 and "is finished" in result.stderr
