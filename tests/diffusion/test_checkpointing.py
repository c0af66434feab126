import pytest
import torch
from helpers.runs import adapter_tensors, train_tiny

from symdream.diffusion.adapters import attach
from symdream.diffusion.base import load_base
from symdream.diffusion.batch import Batch
from symdream.diffusion.batch_loss import BatchLoss
from symdream.diffusion.checkpointing import use_gradient_checkpointing
from symdream.diffusion.conditioning import size_ids, tokenize


def gradients(folder, method, components, *, checkpointing, dropout=0.0):
    """Loss and gradients of one batch, and how many bytes its forward kept."""
    base = load_base(str(folder))
    chosen = base.chosen(components)
    trainable = attach(base, method, 4, 4.0, "qkvo", chosen, dropout, 0)
    for component in chosen:
        base.components()[component].train()
    if checkpointing:
        use_gradient_checkpointing(base, chosen, dropout=dropout > 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # away from LoRA's B = 0, where A has no gradient
        for named in trainable.values():
            for parameter in named.values():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    x0, noise = torch.randn(2, 1, 4, 16, 16, generator=generator)
    batch = Batch(
        x0=x0,
        noise=noise,
        timesteps=torch.tensor([400]),
        captions=torch.tensor([0]),
        token_ids=tokenize(base, ["a sks toy"]),
        sizes=size_ids((128, 128), (0, 0), (128, 128))[None],
    )
    kept = 0

    def count(tensor):
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = BatchLoss(base, train_text_encoder="text_encoder" in chosen)(batch)
    loss.backward()
    return loss.detach(), {f"{c}.{n}": p.grad for c, named in trainable.items() for n, p in named.items()}, kept


CASES = [
    ("tiny_sd1", "lora", "both", 0.3),
    ("tiny_sd1", "symlora", "text_encoder", 0.0),
    ("tiny_sdxl", "singlora", "both", 0.0),
    ("tiny_sdxl", "dora", "unet", 0.0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("base", "method", "components", "dropout"), CASES)
def test_gradients_are_the_same_and_less_is_kept(request, base, method, components, dropout):
    folder = request.getfixturevalue(base)
    loss, plain, kept = gradients(folder, method, components, checkpointing=False, dropout=dropout)
    again, checkpointed, less = gradients(folder, method, components, checkpointing=True, dropout=dropout)
    assert torch.equal(loss, again)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)
        assert gradient.abs().max() > 0, name
    assert less < 0.5 * kept


@pytest.mark.slow
def test_a_run_with_it_gives_the_same_adapter(tmp_path, tiny_sd1, photos):
    runs = [
        train_tiny(tmp_path / str(on), tiny_sd1, photos, method="lora", steps=2, gradient_checkpointing=on)
        for on in (False, True)
    ]
    plain, checkpointed = map(adapter_tensors, runs)
    for name, tensor in plain.items():
        torch.testing.assert_close(checkpointed[name], tensor, atol=1e-6, rtol=1e-4, msg=name)
