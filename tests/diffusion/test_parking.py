"""Where models wait. There is one device here, so moves are watched rather than made."""

from types import SimpleNamespace

import torch
from torch import nn

from symdream.diffusion.parking import all_present, park


class Watched(nn.Linear):
    """Notes where it was sent and stays where it is."""

    def __init__(self):
        super().__init__(1, 1)
        self.sent = []

    def _apply(self, fn, recurse=True):
        self.sent.append(fn(torch.zeros(1)).device.type)
        return self


def test_the_parked_come_for_as_long_as_they_are_needed():
    vae, text = Watched(), Watched()
    base = SimpleNamespace(vae=vae, text_encoders=[text], device=torch.device("meta"))
    with all_present(base):
        assert vae.sent == text.sent == ["meta"]
    assert vae.sent == text.sent == ["meta", "cpu"]


def test_they_go_back_after_a_failure_too():
    vae = Watched()
    base = SimpleNamespace(vae=vae, text_encoders=[], device=torch.device("meta"))
    try:
        with all_present(base):
            raise KeyError
    except KeyError:
        pass
    assert vae.sent == ["meta", "cpu"]


def test_nothing_moves_where_all_are_present():
    vae = Watched()
    with all_present(SimpleNamespace(vae=vae, text_encoders=[], device=torch.device("cpu"))):
        pass
    assert vae.sent == []


def test_parking_in_inference_mode_leaves_weights_that_can_train():
    module = nn.Linear(2, 2)
    with torch.inference_mode():
        park([module.double()])
    module.float()(torch.ones(1, 2)).sum().backward()
    assert module.weight.grad is not None
