import torch
from hypothesis import given
from hypothesis import strategies as st

from symdream.data import draws
from symdream.data.turns import turn


@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 50), count=st.integers(1, 12))
def test_every_epoch_shows_each_image_once(seed, epoch, count):
    shown = [draws.image_index(seed, k, count) for k in range(epoch * count, (epoch + 1) * count)]
    assert sorted(shown) == list(range(count))


def test_every_epoch_has_an_order_of_its_own():
    orders = {tuple(draws.image_index(0, 6 * epoch + place, 6) for place in range(6)) for epoch in range(20)}
    assert len(orders) > 15  # of 720


def test_no_two_samples_share_a_seed():
    seeds = {draws.seed_of(0, stream, k) for stream in ("noise", "latent") for k in range(20_000)}
    assert len(seeds) == 40_000 and max(seeds) > 2**62


def test_a_draw_depends_on_seed_sample_and_stream_only():
    first = draws.normal(3, 7, (4, 8, 8), "noise")
    torch.manual_seed(123)
    torch.randn(10)
    assert torch.equal(first, draws.normal(3, 7, (4, 8, 8), "noise"))
    for other in (
        draws.normal(4, 7, (4, 8, 8), "noise"),
        draws.normal(3, 8, (4, 8, 8), "noise"),
        draws.normal(3, 7, (4, 8, 8), "latent"),
    ):
        assert not torch.equal(first, other)


def test_draws_are_the_same_whatever_device_is_the_default():
    def drawn():
        numbers = draws.image_index(0, 2, 5), draws.timestep(0, 2, 1000), draws.uniform(0, 2, "flip")
        return draws.normal(0, 2, (3,), "noise").tolist(), numbers, turn(0, 2, [2, 3])

    usual = drawn()
    with torch.device("meta"):
        assert drawn() == usual


def test_noise_is_standard_normal_and_uncorrelated_between_samples():
    noise = torch.stack([draws.normal(0, k, (1024,), "noise") for k in range(200)])
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    correlation = torch.corrcoef(noise)
    assert (correlation - torch.eye(200)).abs().max() < 0.2  # 6 standard deviations of 1/√1024


def test_timesteps_are_uniform():
    drawn = torch.tensor([draws.timestep(0, k, 1000) for k in range(4000)]).float()
    assert drawn.min() < 10 and drawn.max() > 989
    assert abs(drawn.mean() - 499.5) < 20  # 4.4 standard errors
    assert {draws.timestep(0, k, 5) for k in range(100)} == set(range(5))
