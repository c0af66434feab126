"""What compression by the base's answers keeps, against dense matrices and against the answers themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.tiny_bases import adapted, tiny_base
from hypothesis import given, settings
from hypothesis import strategies as st

from symdream.interop.arithmetic import compress_to_numbers, compress_to_rank, factor
from symdream.interop.attach import attach_adapter
from symdream.interop.collect import collect
from symdream.interop.keys import Place
from symdream.interop.layers import Adapter, PlainLayer
from symdream.interop.sensitivity import LOOKS, SEEDS, Moments, guided, looks_at, measure, visited, watched

P = Place("unet", "down_blocks.0.a")
PROMPT = "a photo of a sks toy"


def root(matrix: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def random_covariance(n: int, generator) -> torch.Tensor:
    factor = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return factor @ factor.T / n


@given(
    r=st.integers(1, 6), k=st.integers(1, 6), n_in=st.integers(6, 12), n_out=st.integers(6, 12), seed=st.integers(0, 9)
)
@settings(deadline=None, max_examples=30)
def test_the_weighted_error_is_the_least_of_that_rank(r, k, n_in, n_out, seed):
    """Oracle: the dense SVD of G^1/2 B A C^1/2, for inputs of covariance C and gradients of covariance G."""
    generator = torch.Generator().manual_seed(seed)
    layer = PlainLayer(torch.randn(r, n_in, generator=generator), torch.randn(n_out, r, generator=generator), 0.5)
    C, G = random_covariance(n_in, generator), random_covariance(n_out, generator)
    A, B = layer.A.double(), layer.B.double() * layer.scale
    adapter = Adapter({P: layer})
    factors = factor(adapter, {P: Moments(A @ C @ A.T, B.T @ G @ B)})
    kept = compress_to_rank(adapter, k, factors).layers[P]
    U, s, Vt = torch.linalg.svd(root(G) @ B @ A @ root(C))
    wanted = (U[:, :k] * s[:k]) @ Vt[:k] if k < len(s) else root(G) @ B @ A @ root(C)
    found = root(G) @ kept.B.double() @ kept.A.double() @ root(C)
    assert float((found - wanted).norm()) < 1e-4 * float(s[0])
    assert factors[P][1] == pytest.approx(s[:r].numpy(), rel=1e-4, abs=1e-5 * float(s[0]))


def test_white_noise_gives_the_error_of_the_weights():
    generator = torch.Generator().manual_seed(0)
    layer = PlainLayer(torch.randn(4, 9, generator=generator), torch.randn(7, 4, generator=generator))
    adapter = Adapter({P: layer})
    A, B = layer.A.double(), layer.B.double()
    for kept in (1, 2, 3):
        one = compress_to_rank(adapter, kept).layers[P]
        other = compress_to_rank(adapter, kept, factor(adapter, {P: Moments(A @ A.T, B.T @ B)})).layers[P]
        torch.testing.assert_close(one.B @ one.A, other.B @ other.A, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-10, 1e10])
def test_gradients_of_any_size_leave_factors_that_fit_fp16(size):
    generator = torch.Generator().manual_seed(0)
    layer = PlainLayer(torch.randn(4, 9, generator=generator), torch.randn(7, 4, generator=generator))
    S_A, S_B = (random_covariance(4, generator) for _ in range(2))
    U, _, V = factor(Adapter({P: layer}), {P: Moments(S_A, S_B * size)})[P]
    assert abs(U).max(0) == pytest.approx(abs(V).max(0))
    halves = (torch.from_numpy(x).half().double() for x in (U, V.T))
    torch.testing.assert_close(next(halves) @ next(halves), (layer.B @ layer.A).double(), rtol=0, atol=0.02)


@pytest.fixture(scope="module")
def plain():
    """An adapter as LoRA, its base with it attached, a large update that nothing hears, and the moments."""
    adapter = collect(adapted("sd1", "lora").components())
    deaf = next(p for p in adapter.layers if p.module.endswith("attn2.to_out.0"))
    adapter.layers[deaf] = replace(adapter.layers[deaf], scale=100 * adapter.layers[deaf].scale)
    base = tiny_base("sd1")
    # Everything inside a transformer leaves it through proj_out.
    transformer = base.unet.get_submodule(deaf.module.split(".transformer_blocks")[0])
    with torch.no_grad():
        transformer.proj_out.weight.zero_()
    attach_adapter(base.components(), adapter)
    return base, adapter, deaf, measure(base, adapter, looks_at(base, [PROMPT]))


def test_a_large_update_that_no_answer_owes_anything_to_goes_first(plain):
    base, adapter, deaf, moments = plain
    assert moments.keys() == adapter.layers.keys()
    budget = 20_000
    by_weights = compress_to_numbers(adapter, budget)
    by_answers = compress_to_numbers(adapter, budget, factor(adapter, moments))
    assert by_weights.layers[deaf].rank == adapter.layers[deaf].rank
    assert deaf not in by_answers.layers

    def answer(kept: Adapter) -> torch.Tensor:
        fresh = tiny_base("sd1")
        fresh.unet.load_state_dict(
            {k.replace(".base_layer", ""): v for k, v in base.unet.state_dict().items() if "lora_" not in k}
        )
        attach_adapter(fresh.components(), kept)
        with torch.no_grad():
            return torch.cat([guided(fresh, PROMPT, x_t, t) for x_t, t in looks])

    looks = visited(base, PROMPT, SEEDS[0])
    wanted = answer(adapter)
    assert float((answer(by_answers) - wanted).norm()) < float((answer(by_weights) - wanted).norm())


def test_the_moments_are_those_of_inputs_and_gradients(plain):
    """Against the same pass recorded from outside, for one layer of the UNet and one of the text encoder."""
    base, adapter, _, found = plain
    places = [next(p for p in adapter.layers if p.component == c) for c in ("unet", "text_encoder")]
    modules = [base.components()[p.component].get_submodule(p.module.removeprefix("text_model.")) for p in places]
    wanted = {p: [0, 0] for p in places}
    for module in modules:
        module.lora_A["default"].weight.requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    for seed in SEEDS:
        for x_t, t in visited(base, PROMPT, seed):
            seen = []

            def keep(module, args, output, seen=seen):
                seen.append((module, args[0], output))

            handles = [module.register_forward_hook(keep) for module in modules]
            prediction = guided(base, PROMPT, x_t, t)
            v = torch.randn(prediction.shape, generator=generator)
            gradients = torch.autograd.grad((prediction * v).sum(), [out for _, _, out in seen])
            for (module, x, _), g in zip(seen, gradients, strict=True):
                place = places[modules.index(module)]
                layer = adapter.layers[place]
                z = (x.detach() @ layer.A.T).flatten(0, -2).double()
                h = (g @ (layer.B * layer.scale)).flatten(0, -2).double()
                wanted[place][0] += z.T @ z / len(z)
                wanted[place][1] += h.T @ h
            for handle in handles:
                handle.remove()
    for place in places:
        for ours, theirs in zip((found[place].A, found[place].B), wanted[place], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.norm()))
    assert len(visited(base, PROMPT, 0)) == min(LOOKS, base.defaults["steps"])
    assert not any(p.requires_grad for n, p in base.unet.named_parameters() if "base_layer" in n)


def test_the_states_are_those_of_diffusers_pipeline_evenly_spaced_and_guided_as_there():
    base = tiny_base("sd1")
    base.defaults = {"steps": 15, "guidance": 3.0}
    found = visited(base, PROMPT, 4)
    pipe, states = base.pipeline(), [found[0][0]]
    pipe.set_progress_bar_config(disable=True)
    pipe(
        PROMPT, latents=states[0], num_inference_steps=15, guidance_scale=3.0, output_type="latent",
        callback_on_step_end=lambda pipe, i, t, told: states.append(told["latents"]) or told,
    )  # fmt: skip
    places = np.linspace(0, 14, LOOKS).round().astype(int)
    assert [int(t) for _, t in found] == pipe.scheduler.timesteps[places].tolist()
    for place, (x_t, _) in zip(places, found, strict=True):
        torch.testing.assert_close(x_t, states[place], rtol=1e-4, atol=1e-4)
    for x_t, t in found[::5]:
        with torch.no_grad():
            ids = base.tokenizer(["", PROMPT], padding="max_length", return_tensors="pt").input_ids
            without, by_prompt = base.unet(x_t.repeat(2, 1, 1, 1), t, base.text_encoder(ids)[0]).sample
            torch.testing.assert_close(guided(base, PROMPT, x_t, t)[0], without + 3 * (by_prompt - without))


def test_every_prompt_is_looked_at_from_every_seed():
    base, prompts, seeds = tiny_base("sd1"), ["a toy", PROMPT], [5, 4]
    wanted = [(prompt, *state) for prompt in prompts for seed in seeds for state in visited(base, prompt, seed)]
    for found, expected in zip(looks_at(base, prompts, seeds), wanted, strict=True):
        assert found[0] == expected[0] and torch.equal(found[1], expected[1]) and found[2] == expected[2]


def test_what_watched_a_base_is_off_it_afterwards_also_where_it_fails():
    adapter = collect(adapted("sd1", "lora").components())
    base = tiny_base("sd1")
    attach_adapter(base.components(), adapter)
    parameters = [p for model in base.components().values() for p in model.parameters()]
    trained = next(p for name, p in base.unet.named_parameters() if "lora_A" in name)
    for p in parameters:
        p.requires_grad_(p is trained)
    found = {}
    [x_t, t] = visited(base, PROMPT, 0)[0]
    with pytest.raises(ZeroDivisionError), watched(base, adapter, found):
        guided(base, PROMPT, x_t, t).sum().backward()
        assert trained.grad is not None
        1 / 0  # noqa: B018
    assert all(p.requires_grad == (p is trained) and p.grad is None for p in parameters)
    before = {place: (moments.A.clone(), moments.B.clone()) for place, moments in found.items()}
    guided(base, PROMPT, x_t, t).sum().backward()
    assert all(torch.equal(m.A, before[p][0]) and torch.equal(m.B, before[p][1]) for p, m in found.items())
