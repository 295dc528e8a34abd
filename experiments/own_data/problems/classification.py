"""Classification of whole sequences."""

from functools import partial

from experiments.own_data.supervised import build_supervised, restore_supervised

build = partial(build_supervised, of_steps=False)
restore = partial(restore_supervised, of_steps=False)
