import pytest
from pydantic import ValidationError

from symdream.config import Training
from symdream.settings import fields


def test_every_setting_has_a_sentence_and_a_name_of_its_own():
    for name, (section, field) in fields().items():
        assert field.description and field.description.endswith("."), f"{section}.{name}"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1e-4])
def test_a_learning_rate_must_be_positive_and_finite(value):
    with pytest.raises(ValidationError):
        Training(lr=value)
