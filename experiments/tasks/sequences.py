"""Sequences of one's own: a kind of file is read, and a kind of problem is made of it."""

from pathlib import Path

from experiments.own_data.config import SequencesConfig as Config
from experiments.own_data.problems import load_problem
from experiments.own_data.sources import load_source
from experiments.task import Task


def build(config: Config, data_dir: Path) -> Task:
    """Binds a config to its data, which are not in `data_dir`, but where `data.path` says.

    Raises:
        UserError: the data cannot be read, or do not fit the problem.
    """
    del data_dir
    dataset = load_source(config.data.format).read(config.data, config.problem)
    return load_problem(config.problem).build(config, dataset)
