"""A busy machine is no error: hypothesis sets no deadline on the examples of this folder."""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None, max_examples=60)
settings.load_profile("unhurried")
