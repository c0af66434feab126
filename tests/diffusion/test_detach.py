"""After an adapter is taken off, the base is bit for bit what it was, and takes another one of any method."""

import pytest
import torch
from helpers.runs import tiny_config

from symdream.diffusion.adapters import attach
from symdream.diffusion.base import load_base
from symdream.diffusion.detach import detach, lent
from symdream.training.batched import train_together
from symdream.training.run_folder import RunFolder
from symdream.training.session import run_training
from symdream.tuners import METHODS


@pytest.fixture(scope="module")
def base(tiny_sd1):
    return load_base(str(tiny_sd1))


def weights(base):
    return {f"{c}.{n}": p.clone() for c, m in base.components().items() for n, p in m.state_dict().items()}


def test_every_method_follows_every_other_as_on_a_fresh_base(base, tiny_sd1):
    before = weights(base)
    for method in METHODS:
        attached = attach(base, method, 2, 2.0, "qkvo", ["unet", "text_encoder"], 0.0, 7)
        fresh = attach(load_base(str(tiny_sd1)), method, 2, 2.0, "qkvo", ["unet", "text_encoder"], 0.0, 7)
        for component, named in fresh.items():
            assert named.keys() == attached[component].keys()
            assert all(torch.equal(p, attached[component][n]) for n, p in named.items())
        with torch.no_grad():
            for named in attached.values():
                for parameter in named.values():
                    parameter.normal_()
        detach(base)
        after = weights(base)
        assert after.keys() == before.keys() and all(torch.equal(before[n], after[n]) for n in before)


def test_a_base_without_adapters_stays_as_it_is(base):
    before = weights(base)
    detach(base)
    assert weights(base).keys() == before.keys()


def what_training_changes(base):
    """All that a run may leave behind in a base, beside its weights."""
    models = {"vae": base.vae, **base.components()}
    return {
        "schedule": (type(base.scheduler), dict(base.scheduler.config), base.scheduler.alphas_cumprod.tolist()),
        "asking": {f"{name}.{n}": p.requires_grad for name, m in models.items() for n, p in m.named_parameters()},
        "checkpointing": {name: module.is_gradient_checkpointing for name, module in base.components().items()},
        "hooks": {name: [len(m._forward_hooks) for m in module.modules()] for name, module in models.items()},
        "modes": {name: [m.training for m in module.modules()] for name, module in models.items()},
    }


def run_lent(run, config, base):
    with lent(base):
        run_training(run, config, base=base)


@pytest.mark.parametrize("train", [run_lent, lambda run, config, base: train_together([run], [config], base)])
def test_a_base_comes_back_from_a_training_as_it_was(tmp_path, tiny_sd2, photos, train):
    base = load_base(str(tiny_sd2))
    base.vae.requires_grad_(False)
    before, values = what_training_changes(base), weights(base)
    flags = {"zero_terminal_snr": True, "gradient_checkpointing": True, "steps": 1, "batch_size": 1, "rank": 2}
    run = RunFolder.create(tmp_path / "run")
    train(run, tiny_config(tiny_sd2, photos, **flags), base)
    assert run.read_state()["status"] == "finished"
    assert what_training_changes(base) == before
    after = weights(base)
    assert after.keys() == values.keys() and all(torch.equal(values[n], after[n]) for n in values)


def test_a_base_comes_back_from_a_training_that_failed(tiny_sd1):
    base = load_base(str(tiny_sd1))
    before = what_training_changes(base)
    with pytest.raises(RuntimeError, match="out of memory"), lent(base):
        attach(base, "lora", 2, 2.0, "qkvo", ["unet"], 0.0, 7)
        raise RuntimeError("out of memory")
    assert what_training_changes(base) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU to park parts beside")
def test_what_a_training_parked_is_taken_back(tmp_path, tiny_sd1, photos):
    base = load_base(str(tiny_sd1), device="cuda")
    config = tiny_config(tiny_sd1, photos, steps=1, rank=2, components="unet", device="cuda")
    run_lent(RunFolder.create(tmp_path / "run"), config, base)
    places = {p.device.type for m in (base.vae, *base.components().values()) for p in m.parameters()}
    assert places == {"cuda"}
