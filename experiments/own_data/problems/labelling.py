"""Labelling: a class or a number of each step."""

from functools import partial

from experiments.own_data.supervised import build_supervised, restore_supervised

build = partial(build_supervised, of_steps=True)
restore = partial(restore_supervised, of_steps=True)
