import os
import shutil
import subprocess
import sys

import pytest
import torch
from helpers.runs import adapter_tensors, tiny_config, train_tiny

from symdream.diffusion.adapters import attach
from symdream.diffusion.base import load_base
from symdream.diffusion.batch import Batch
from symdream.diffusion.batch_loss import BatchLoss
from symdream.diffusion.conditioning import tokenize
from symdream.errors import RequestError
from symdream.training import devices
from symdream.training.checkpoint import load_checkpoint, save_checkpoint
from symdream.training.defaults import resolve
from symdream.training.optimizer import make_optimizer
from symdream.training.run_folder import RunFolder
from symdream.training.session import run_training


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(RequestError, match="fp16 is not for a CPU"):
        devices.open_accelerator("cpu", "fp16")


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_takes_bf16_only_where_it_is_native(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert devices.auto_dtype("cuda") == expected
    assert devices.auto_dtype("cpu") == torch.float32
    assert (devices.dtype_problem("cuda", torch.bfloat16) is None) == native


def test_a_device_that_is_not_there_is_told_with_those_that_are():
    if torch.cuda.is_available():
        pytest.skip("has the device")
    with pytest.raises(RequestError, match="No cuda device") as caught:
        devices.open_accelerator("cuda", "auto")
    assert "cpu" in caught.value.fix


@pytest.mark.parametrize("name", ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"])
def test_processes_that_do_not_find_each_other_are_refused(monkeypatch, name):
    # As on a Mac's GPU, where accelerate connects none. Opened first: with the number set, it would wait for another.
    devices.open_accelerator("cpu", "auto")
    monkeypatch.setenv(name, "1")
    devices.open_accelerator("cpu", "auto", together=True)
    monkeypatch.setenv(name, "3")
    with pytest.raises(RequestError, match=rf"3 processes were started \({name}\), but they do not find each other"):
        devices.open_accelerator("cpu", "auto", together=True)


def opened_in_a_new_process(arguments, launcher):
    """How many processes the accelerator of one has that was started with these variables of a launcher."""
    code = (
        f"from symdream.training.devices import open_accelerator; opened = open_accelerator({arguments});"
        "print(opened[0].num_processes, opened[0].device)"
    )
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **launcher}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_what_trains_no_run_computes_alone_whatever_started_it(device):
    # The other of the two would have to come: met, this one would wait for it.
    launcher = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29533", "PMI_SIZE": "2"}
    result = opened_in_a_new_process(f"'{device}', 'auto'", launcher)
    assert result.stdout.split() == ["1", "cpu"], result.stderr


def test_processes_that_cannot_meet_are_told_in_a_sentence():
    result = opened_in_a_new_process("'auto', 'auto', together=True", {"PMI_SIZE": "2", "PMI_RANK": "0"})
    last = "symdream.errors.RequestError: The processes that a launcher started cannot meet: "
    assert f"\n{last}" in result.stderr and "MASTER_ADDR" in result.stderr.split(last)[1]


def test_processes_wait_for_the_first_one_for_longer_than_class_images_take():
    # A group of one is a group, too.
    asked = (
        "import torch; from symdream.training.devices import open_accelerator;"
        "open_accelerator('auto', 'fp32', together=True);"
        "group = torch.distributed.group.WORLD;"
        "print(group._get_backend(torch.device('cpu')).options._timeout.total_seconds() / 3600)"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python", sys.executable, "-c"]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run([*launcher, asked], capture_output=True, text=True, timeout=300, env=env)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout.split()[-1]) >= 12  # gloo may tell of itself before


def test_an_accelerator_of_the_callers_own_is_no_obstacle(tmp_path, tiny_sd1, photos, few_denoising_steps):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    alone = adapter_tensors(train_tiny(tmp_path / "alone", tiny_sd1, photos, steps=1))
    try:
        AcceleratorState._reset_state(reset_partial_state=True)
        Accelerator(mixed_precision="bf16", cpu=True)
        beside = adapter_tensors(train_tiny(tmp_path / "beside", tiny_sd1, photos, steps=1))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert beside.keys() == alone.keys() and all(torch.equal(beside[name], alone[name]) for name in alone)


def test_another_device_than_that_of_the_callers_accelerator_is_refused(monkeypatch):
    devices.open_accelerator("cpu", "auto")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(RequestError, match="computes on cpu, by an Accelerator made before; it cannot go to mps"):
        devices.open_accelerator("mps", "auto")


def test_settings_of_accelerate_that_are_not_used_are_told(monkeypatch, capfd):
    def opened(precision, backend):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)  # the launcher sets both always, spelled so
        monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", backend)
        devices.open_accelerator("cpu", "auto")
        return capfd.readouterr().err

    usual = ("no", "NO")
    assert "note:" not in opened(*usual)
    told = opened("bf16", "INDUCTOR")
    assert "note: not used of accelerate's settings: mixed precision, dynamo. The number format is --dtype's" in told
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert "accelerate's settings: FSDP." in opened(*usual)


@pytest.mark.parametrize(("variable", "name"), [("DEEPSPEED", "DeepSpeed"), ("MEGATRON_LM", "Megatron-LM")])
def test_what_accelerate_would_train_with_in_its_own_way_is_refused(monkeypatch, variable, name):
    monkeypatch.setenv(f"ACCELERATE_USE_{variable}", "true")
    with pytest.raises(RequestError, match=f"accelerate is set to {name}, which symdream does not use"):
        devices.open_accelerator("cpu", "auto")


def test_untested_platforms_are_labelled(monkeypatch):
    assert devices.untested("cpu") is None and "MPS" in devices.untested("mps")
    monkeypatch.setattr(torch.version, "hip", "6.0")
    assert "ROCm" in devices.untested("cuda")


class Half:
    """A tiny base in fp16 with fp32 adapters, an optimizer and a scaler, as the trainer sets them up."""

    def __init__(self, folder, photos, *, scale=2.0**10, dtype=torch.float16):
        self.base = load_base(str(folder), dtype=dtype)
        config = resolve(tiny_config(folder, photos, method="lora"), self.base)
        chosen = self.base.chosen("both")
        self.trainable = attach(self.base, "lora", 4, 4.0, "qkvo", chosen, 0.0, 0)
        self.optimizer = make_optimizer(config, self.trainable)
        self.loss = BatchLoss(self.base, train_text_encoder=True)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=dtype == torch.float16)
        generator = torch.Generator().manual_seed(0)
        self.batch = Batch(
            x0=torch.randn(1, 4, 16, 16, generator=generator),
            noise=torch.randn(1, 4, 16, 16, generator=generator),
            timesteps=torch.tensor([400]),
            captions=torch.tensor([0]),
            token_ids=tokenize(self.base, ["a sks toy"]),
        )

    @property
    def parameters(self):
        return [p for named in self.trainable.values() for p in named.values()]

    def backward(self):
        self.scaler.scale(self.loss(self.batch)).backward()
        self.scaler.unscale_(self.optimizer)

    def update(self):
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)


def test_an_fp16_base_with_fp32_adapters_has_nearly_the_gradients_of_fp32(tiny_sd1, photos):
    half, full = Half(tiny_sd1, photos), Half(tiny_sd1, photos, dtype=torch.float32)
    assert {p.dtype for p in half.parameters} == {torch.float32} and half.base.unet.dtype == torch.float16
    half.backward()
    full.backward()
    ours, exact = (torch.cat([p.grad.flatten() for p in side.parameters]) for side in (half, full))
    assert ours.isfinite().all()
    assert torch.cosine_similarity(ours, exact, dim=0) > 0.99


def test_a_step_whose_gradient_overflows_is_skipped_and_the_scale_halved(tiny_sd1, photos):
    half = Half(tiny_sd1, photos)
    before, scale = [p.detach().clone() for p in half.parameters], half.scaler.get_scale()
    half.scaler.scale(half.loss(half.batch)).backward()
    half.parameters[1].grad[0] = float("inf")
    half.scaler.unscale_(half.optimizer)
    half.update()
    assert all(torch.equal(a, b) for a, b in zip(before, half.parameters, strict=True))
    assert half.scaler.get_scale() == scale / 2
    half.backward()
    half.update()
    assert not all(torch.equal(a, b) for a, b in zip(before, half.parameters, strict=True))


def test_the_scale_is_part_of_a_checkpoint(tmp_path, tiny_sd1, photos):
    half = Half(tiny_sd1, photos, scale=2.0**7)
    half.backward()
    half.update()
    save_checkpoint(tmp_path, 1, half.trainable, half.optimizer, {"scaler": half.scaler.state_dict()}, keep=1)
    other = Half(tiny_sd1, photos)
    state = load_checkpoint(tmp_path / "step-1", other.trainable, other.optimizer)
    other.scaler.load_state_dict(state["scaler"])
    for side in (half, other):
        side.backward()
        side.update()
    assert other.scaler.get_scale() == half.scaler.get_scale() == 2.0**7
    assert all(torch.equal(a, b) for a, b in zip(half.parameters, other.parameters, strict=True))


def test_a_run_in_fp16_begins_stops_and_is_resumed(tmp_path, tiny_sd1, photos, monkeypatch):
    # Here a CPU stands in for a GPU without bf16: the loss scaling is the real one.
    monkeypatch.setattr(devices, "dtype_problem", lambda device, dtype: None)
    config = tiny_config(tiny_sd1, photos, dtype="fp16", method="lora", steps=4, checkpoint_every=2)
    run = RunFolder.create(tmp_path / "run")
    # oneDNN adds up in fp16 where a CPU can (avx512_fp16), and overflows at the first scale; on a CPU that ends a run.
    with torch.backends.mkldnn.flags(enabled=False):
        run_training(run, config)
        whole = adapter_tensors(run)
        shutil.rmtree(run.checkpoints / "step-4")
        shutil.rmtree(run.adapter)
        run_training(RunFolder.open(run.path), config, resume=True)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in adapter_tensors(run).items())
    assert any(tensor.isfinite().all() and tensor.abs().max() > 0 for tensor in whole.values())
