"""A warning of Keras, for ``pytest.mark.filterwarnings``."""

# Keras' variables lag behind NumPy 2.
KERAS_WARNING = "ignore:__array__ implementation:DeprecationWarning:keras"
