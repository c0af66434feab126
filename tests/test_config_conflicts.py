import pytest

from symdream.config import TrainConfig
from symdream.config_conflicts import conflicts


@pytest.mark.parametrize(
    "nested",
    [
        {"adapter": {"method": "symlora", "ramp": 0.01}},
        {"adapter": {"method": "lora"}, "training": {"lora_plus_ratio": 4}},
        {"adapter": {"method": "singlora"}, "training": {"lambda_lr": 1e-3}},
        {"adapter": {"components": "unet"}, "training": {"text_encoder_lr": 1e-3}},
    ],
)
def test_an_option_that_would_do_nothing_is_refused(nested):
    assert len(conflicts(TrainConfig.model_validate(nested))) == 1
