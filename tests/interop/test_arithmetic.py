"""Against the dense matrices, which the code under test never forms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from symdream.errors import RequestError, WorkError
from symdream.interop.arithmetic import add, compress_to_numbers, compress_to_rank, scale
from symdream.interop.keys import Place
from symdream.interop.layers import Adapter, PlainLayer, SymmetricLayer
from symdream.interop.lora_file import file_tensors, in_format, with_one_alpha, write_lora
from symdream.interop.metadata import recommended_weight
from symdream.interop.read import read_adapter
from symdream.interop.spectrum import relative_error, singular_values
from symdream.tuners.symmetric import dense_delta

P1, P2 = Place("unet", "down_blocks.0.a"), Place("text_encoder", "text_model.b")


def layer(r: int, n_in: int, n_out: int, seed: int, factor: float = 1.0) -> PlainLayer:
    generator = torch.Generator().manual_seed(seed)
    return PlainLayer(torch.randn(r, n_in, generator=generator), torch.randn(n_out, r, generator=generator), factor)


def dense(x: PlainLayer) -> torch.Tensor:
    return x.scale * x.B.double() @ x.A.double()


def close(a, b, tolerance=1e-6) -> bool:
    return float((a - b).norm()) <= tolerance * float(b.norm())


def test_scaling_far_down_keeps_the_weight_that_was_found_best():
    whole = Adapter({P1: layer(2, 4, 4, 0)}, {"recommended_weight": 1.2})
    assert recommended_weight(scale(whole, 0.1).metadata) == pytest.approx(12)
    assert recommended_weight(scale(scale(whole, 0.1), 10).metadata) == pytest.approx(1.2)


@pytest.mark.parametrize("weight", [0, -2])
def test_an_adapter_that_is_switched_off_or_turned_round_has_no_weight_that_was_found_best(weight):
    whole = Adapter({P1: layer(2, 4, 4, 0)}, {"recommended_weight": 1.2, "trigger": "sks"})
    assert scale(whole, weight).metadata == {"trigger": "sks"}


@given(r1=st.integers(1, 6), r2=st.integers(1, 6), w1=st.floats(-2, 2), w2=st.floats(-2, 2), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_adding_is_exact_and_ranks_add_up(r1, r2, w1, w2, seed):
    a, b = Adapter({P1: layer(r1, 12, 9, seed, 0.5)}), Adapter({P1: layer(r2, 12, 9, seed + 1), P2: layer(2, 7, 7, 3)})
    total = add([a, b], [w1, w2])
    wanted = w1 * dense(a.layers[P1]) + w2 * dense(b.layers[P1])
    assert (dense(total.layers[P1]) - wanted).abs().max() < 1e-4
    assert total.layers[P1].rank == r1 + r2
    assert torch.allclose(dense(total.layers[P2]), w2 * dense(b.layers[P2]), atol=1e-6)


def test_scaling_scales():
    adapter = Adapter({P1: layer(3, 8, 5, 0, 0.25)})
    assert close(dense(scale(adapter, -0.5).layers[P1]), -0.5 * dense(adapter.layers[P1]))


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_a_scale_loses_nothing_of_a_file_in_half_precision(stored):
    """kohya's usual alpha 1 at rank 128 pushes fp16's small numbers below what it holds."""
    generator = torch.Generator().manual_seed(0)
    A, B = (torch.randn(s, generator=generator) * 1e-4 for s in ((8, 20), (30, 8)))
    layer = PlainLayer(A.to(stored), B.to(stored), 1 / 128)
    place = Place("unet", "a")
    exact = layer.B.double() @ layer.A.double() / 128
    alike = add([Adapter({place: layer})] * 2 + [Adapter({place: layer.to(torch.float32)})], [0.5, 0.25, 0.25])
    for plain in (layer.folded(), alike.layers[place]):
        torch.testing.assert_close(plain.B.double() @ plain.A.double(), exact, rtol=1e-5, atol=1e-16)


def test_a_rank_that_does_nothing_yet_stays_so_in_fp16():
    """As SymLoRA's are whose Lambda is 0."""
    whole = layer(3, 5, 4, 0)
    whole.A[0] = 0
    whole.B[:, 1] = 0
    half = in_format(whole, torch.float16)
    assert not half.A[0].any() and not half.B[:, 1].any()
    assert close(dense(half), dense(whole), 1e-3)


@pytest.mark.parametrize("layout", ["diffusers", "kohya", "peft"])
@pytest.mark.parametrize(
    ("value", "dtype"), [(float("nan"), torch.float32), (float("inf"), torch.float32), (1e12, torch.float16)]
)
def test_an_update_that_is_not_finite_in_the_file_is_refused_and_nothing_written(tmp_path, layout, value, dtype):
    broken = layer(2, 5, 4, 0)
    broken.B[1, 1] = value
    adapter = Adapter({Place("unet", "down_blocks.0.a"): broken})
    with pytest.raises(WorkError, match="down_blocks.0.a is not finite in fp"):
        write_lora(adapter, tmp_path / "new", layout, dtype=dtype)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_error_of_rounding_that_is_told_is_that_of_the_file(tmp_path, layout, dtype):
    modules = [Place("unet", f"mid_block.attentions.0.transformer_blocks.0.attn1.to_{x}") for x in "qk"]
    adapter = Adapter({place: layer(3, 8, 8, seed, 0.7) for seed, place in enumerate(modules)})
    told = write_lora(adapter, tmp_path / "x.safetensors", layout, dtype=dtype)
    stored = read_adapter(told.path).layers
    updates = torch.cat([dense(whole) for whole in adapter.layers.values()])
    lost = torch.cat([dense(stored[place]) for place in adapter.layers]) - updates
    assert told.error == pytest.approx(float(lost.norm() / updates.norm()), rel=1e-2, abs=1e-7)
    assert told.error < 1e-6 if dtype == torch.float32 else told.error > 1e-5
    assert (told.layers, told.parameters, told.bytes) == (2, 96, told.path.stat().st_size)


@pytest.mark.parametrize(("alpha", "dtype"), [(4.0, torch.float16), (0.1, torch.float32), (2049.0, torch.float32)])
def test_an_alpha_that_fp16_cannot_hold_is_stored_in_fp32(alpha, dtype):
    half = layer(2, 5, 4, 0, alpha / 2).to(torch.float16)
    tensors = file_tensors({Place("unet", "down_blocks.0.a"): half}, "kohya")
    [stored] = [tensor for key, tensor in tensors.items() if key.endswith(".alpha")]
    assert stored.dtype == dtype and stored.item() == pytest.approx(alpha, rel=1e-7)


def test_layers_of_several_alphas_get_the_most_common_one_and_keep_their_updates():
    """A layer that is switched off has none that others could be divided by."""
    places = [Place("unet", name) for name in "abcd"]
    layers = dict(zip(places, (layer(2, 5, 4, seed, s) for seed, s in enumerate((0.0, 4.0, 1.5, 1.5))), strict=True))
    found = with_one_alpha(layers)
    assert [x.scale * x.rank for x in found.values()] == [3.0] * 4
    assert found[places[2]] is layers[places[2]] and found[places[3]] is layers[places[3]]
    for place in places:
        torch.testing.assert_close(dense(found[place]), dense(layers[place]))


@pytest.mark.parametrize("action", [lambda a: scale(a, 0.5), lambda a: add([a, a], [1, 1])])
def test_a_dora_is_neither_scaled_nor_added(action):
    dora = Adapter({P1: PlainLayer(torch.ones(1, 4), torch.ones(3, 1), magnitude=torch.ones(3))})
    with pytest.raises(RequestError, match="not linear"):
        action(dora)


def test_different_architectures_are_not_added():
    with pytest.raises(RequestError, match="different architectures"):
        add([Adapter({P1: layer(2, 8, 8, 0)}), Adapter({P1: layer(2, 8, 9, 0)})], [1, 1])


@given(
    r=st.integers(1, 8), k=st.integers(1, 8), n_in=st.integers(2, 14), n_out=st.integers(2, 14), seed=st.integers(0, 9)
)
@settings(deadline=None, max_examples=40)
def test_compressing_gives_the_best_approximation_of_that_rank(r, k, n_in, n_out, seed):
    adapter = Adapter({P1: layer(r, n_in, n_out, seed, 0.5)})
    found = compress_to_rank(adapter, k).layers[P1]
    U, s, Vt = torch.linalg.svd(dense(adapter.layers[P1]), full_matrices=False)
    wanted = (U[:, :k] * s[:k]) @ Vt[:k]
    assert found.rank <= k
    assert float((dense(found) - wanted).norm()) < 1e-5 * float(s[0])


def test_compressing_a_square_symlora_keeps_the_largest_lambdas_after_diagonalising():
    generator = torch.Generator().manual_seed(0)
    A, d = torch.randn(6, 20, generator=generator), torch.tensor([3.0, -2.0, 1.0, -0.5, 0.2, 4.0])
    adapter = Adapter({P1: SymmetricLayer(A, d, alpha=3.0, shape=(20, 20))})
    update = dense_delta(A, d, 0.5, 20, 20).double()
    values, vectors = torch.linalg.eigh(update)
    largest = values.abs().argsort(descending=True)[:3]
    wanted = (vectors[:, largest] * values[largest]) @ vectors[:, largest].T
    found = compress_to_rank(adapter, 3)
    assert close(dense(found.layers[P1]), wanted, 1e-5)
    told = relative_error(adapter.plain().layers, found.layers)
    assert told == pytest.approx(float((wanted - update).norm() / update.norm()), rel=1e-5)


def test_a_budget_goes_where_the_energy_is():
    adapter = Adapter({P1: layer(4, 10, 10, 0, 100.0), P2: layer(4, 10, 10, 1, 0.001)})
    kept = compress_to_numbers(adapter, 3 * 20)
    assert {place: x.rank for place, x in kept.layers.items()} == {P1: 3}
    with pytest.raises(RequestError, match="larger size"):
        compress_to_numbers(adapter, 19)


def greedy_ranks(layers, budget):
    """Again and again one rank more for the layer whose next takes most off the squared error for what it costs."""
    cost = {place: sum(dense(x).shape) for place, x in layers.items()}
    left = {place: torch.linalg.svdvals(dense(x)).square()[: x.rank].tolist() for place, x in layers.items()}
    ranks = dict.fromkeys(layers, 0)
    while any(left.values()):
        place = max((p for p in left if left[p]), key=lambda p: left[p][0] / cost[p])
        if cost[place] > budget:
            left[place] = []
            continue
        budget -= cost[place]
        ranks[place] += 1
        left[place].pop(0)
    return {place: rank for place, rank in ranks.items() if rank}


@pytest.mark.parametrize("budget", [30, 60, 120, 200, 300, 399])
def test_a_rank_is_worth_what_it_takes_off_the_error_for_each_number_that_it_costs(budget):
    wide = Place("unet", "down_blocks.0.wide")
    layers = {P1: layer(4, 6, 5, 0), P2: layer(4, 9, 14, 1, 0.6), wide: layer(4, 40, 24, 2, 0.3)}
    kept = compress_to_numbers(Adapter(layers), budget).layers
    assert {place: x.rank for place, x in kept.items()} == greedy_ranks(layers, budget)


def test_a_dora_keeps_the_magnitudes_of_every_layer_and_they_cost_their_place():
    """Also where B A is nothing and all that was trained is the magnitude."""
    whole = {
        P1: replace(layer(4, 6, 5, 0), magnitude=torch.rand(5)),
        P2: PlainLayer(torch.ones(4, 9), torch.zeros(14, 4), magnitude=torch.rand(14)),
    }
    least = (5 + 6 + 5) + (14 + 14 + 9)
    with pytest.raises(RequestError, match="larger size"):
        compress_to_numbers(Adapter(whole), least - 1)
    for budget in range(least, 120):
        kept = compress_to_numbers(Adapter(whole), budget).layers
        assert {place: x.rank for place, x in kept.items()} == {P1: min(4, 1 + (budget - least) // 11), P2: 1}
        assert sum(t.numel() for x in kept.values() for t in x.tensors()) <= budget
        assert all(torch.equal(kept[place].magnitude, x.magnitude) for place, x in whole.items())
        assert not kept[P2].B.any()


def test_an_adapter_of_zeros_is_said_to_be_one():
    nothing = Adapter({P1: PlainLayer(torch.ones(2, 6), torch.zeros(5, 2))})
    with pytest.raises(RequestError, match="Every update of this adapter is zero"):
        compress_to_numbers(nothing, 1000)


def test_singular_values_are_those_of_the_dense_update():
    x = layer(5, 9, 13, 0)
    assert singular_values(x.B.numpy(), x.A.numpy()) == pytest.approx(torch.linalg.svdvals(dense(x))[:5].numpy())


@given(scale_of_B=st.integers(-7, 3))
@settings(deadline=None)
def test_fp16_keeps_three_digits_whatever_the_scale_of_B(scale_of_B):
    x = layer(4, 30, 20, 0)
    x = PlainLayer(x.A, x.B * 10.0**scale_of_B)
    stored = in_format(x, torch.float16)
    assert relative_error({P1: x}, {P1: stored}) < 1e-3


def test_what_fp16_holds_exactly_is_left_alone():
    x = layer(4, 30, 20, 0).to(torch.float16).to(torch.float32)
    stored = in_format(x, torch.float16)
    assert torch.equal(stored.A.float(), x.A) and torch.equal(stored.B.float(), x.B)
