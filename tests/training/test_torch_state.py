"""What a caller has set in torch neither reaches a run nor is changed by it."""

from contextlib import contextmanager

import pytest
import torch
from helpers.runs import adapter_tensors, tiny_config, train_tiny

from symdream.training.batched import train_together
from symdream.training.run_folder import RunFolder
from symdream.training.torch_state import as_torch_starts


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def usual(tmp_path_factory, tiny_sd1, photos):
    with pytest.MonkeyPatch.context() as patch:
        from symdream.diffusion.base import SAMPLING_DEFAULTS

        patch.setitem(SAMPLING_DEFAULTS, "steps", 2)
        return adapter_tensors(train_tiny(tmp_path_factory.mktemp("usual") / "run", tiny_sd1, photos, steps=1))


@pytest.mark.parametrize(
    "around",
    [
        lambda: default_dtype(torch.float64),
        lambda: default_dtype(torch.bfloat16),
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    ],
    ids=["float64", "bfloat16", "no_grad", "inference_mode", "autocast"],
)
def test_a_run_is_the_same_whatever_its_caller_has_set(tmp_path, tiny_sd1, photos, usual, few_denoising_steps, around):
    torch.manual_seed(5)
    generator = torch.get_rng_state()
    with around():
        run = train_tiny(tmp_path / "run", tiny_sd1, photos, steps=1)
    assert torch.equal(torch.get_rng_state(), generator)
    found = adapter_tensors(run)
    assert found.keys() == usual.keys() and all(torch.equal(found[name], usual[name]) for name in usual)


def test_runs_trained_together_are_the_same_whatever_their_caller_has_set(tmp_path, tiny_sd1, photos):
    def trained(name):
        run = RunFolder.create(tmp_path / name)
        assert train_together([run], [tiny_config(tiny_sd1, photos, steps=1)]) == [True]
        return adapter_tensors(run)

    plain = trained("plain")
    with default_dtype(torch.float64), torch.inference_mode():
        found = trained("within")
    assert found.keys() == plain.keys() and all(torch.equal(found[name], plain[name]) for name in plain)


def test_an_error_too_leaves_torch_as_it_was():
    with default_dtype(torch.float64), torch.no_grad():
        with pytest.raises(ZeroDivisionError), as_torch_starts():
            assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
            torch.manual_seed(0)
            raise ZeroDivisionError
        assert torch.get_default_dtype() == torch.float64 and not torch.is_grad_enabled()
