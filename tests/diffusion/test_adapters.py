"""Adapters on a base, as the settings of a run ask for them."""

import pytest
import torch
from helpers.runs import tiny_config

from symdream.diffusion.adapters import attach_configured
from symdream.diffusion.base import load_base
from symdream.training.defaults import resolve


def attached(folder, photos, **flags):
    """(base, trainable parameters by component) of a run with these settings."""
    base = load_base(str(folder))
    return base, attach_configured(base, resolve(tiny_config(folder, photos, **flags), base))


def test_what_the_settings_ask_of_the_adapter_reaches_its_layers(tiny_sd1, photos):
    flags = {"method": "singlora", "rank": 3, "alpha": 6, "dropout": 0.25, "targets": "qk", "seed": 5}
    base, plain = attached(tiny_sd1, photos, **flags, components="text_encoder")
    config = base.components()["text_encoder"].peft_config["default"]
    assert (config.r, config.alpha, config.dropout) == (3, 6, 0.25)
    assert {name.split(".")[-3] for name in plain["text_encoder"]} == {"q_proj", "k_proj"}
    assert list(plain) == ["text_encoder"] and not getattr(base.unet, "peft_config", None)


@pytest.mark.parametrize("method", ["singlora", "symlora"])
def test_a_small_start_is_a_tenth_of_the_usual_one_and_the_seed_draws_it(tiny_sd1, photos, method):
    _, usual = attached(tiny_sd1, photos, method=method)
    _, small = attached(tiny_sd1, photos, method=method, init="small")
    _, other = attached(tiny_sd1, photos, method=method, seed=1)
    for component, parameters in usual.items():
        for name, value in parameters.items():
            torch.testing.assert_close(small[component][name], 0.1 * value)
            assert torch.equal(value, other[component][name]) == (not value.any())
