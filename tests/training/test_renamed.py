"""An attribute that was renamed says its new name."""

import pytest

from gru_jax import training


@pytest.mark.parametrize("name", training._RENAMED)
def test_a_renamed_attribute_names_the_new_one(name):
    with pytest.raises(AttributeError, match=f"'{name}'; it is called '{training._RENAMED[name]}'"):
        getattr(training, name)
    assert hasattr(training, training._RENAMED[name])


def test_an_unknown_attribute_is_the_usual_error():
    with pytest.raises(AttributeError, match=r"module 'gru_jax.training' has no attribute 'x'$"):
        _ = training.x
