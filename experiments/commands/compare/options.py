"""Options of `compare`, parsed before JAX is imported."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Generic, get_args

import tyro

from experiments import program
from experiments.command_help import described
from experiments.commands.compare.averages import averaged_values
from experiments.config import Cell
from experiments.datasets.registry import default_data_dir
from experiments.errors import UserError
from experiments.extras import require
from experiments.runs import bucket
from experiments.runs.cli_options import Config, Parsed, parse_options
from experiments.runs.mesh_options import check_batch, parse_mesh
from experiments.runs.search_space import check_space
from experiments.suggest import did_you_mean

PROGRAM = f"{program.PROGRAM} compare"
USAGE = described(
    "compare digits --search --seeds 5",
    "Trains the experiment of CONFIG, a YAML file or a config of the project by its name, with "
    "several cells and seeds. Each cell has the size that gives equally many parameters, and the "
    "values under the key `cells` of CONFIG. The key `variants` has further rows, the own cell "
    "with other values. With --search, each cell gets the best values of the search space under "
    "the key `sweep` instead.",
)
MESH_AXES = ("data", "seed")
CELLS: tuple[str, ...] = get_args(Cell)


@dataclasses.dataclass(frozen=True)
class CompareOptions(Generic[Config]):
    """Options of `compare`."""

    config: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    cells: str = ",".join(CELLS)
    """Cells, separated by commas. Cells other than the config's get the size with equally many
    parameters."""
    seeds: int = 5
    """Number of seeds, counted from that of the config."""
    search: tyro.conf.FlagCreatePairsOff[bool] = False
    """Searches first: for each cell the same space, the key `sweep` of the config, chosen by the
    validation metric. The values replace those under the key `cells`."""
    trials: int = 8
    """Trials of --search for each cell. Where every key of `sweep` has choices, each point of the
    grid is one trial, and this option has no effect."""
    average_over: str | None = None
    """A field with named values, such as held_out_speaker, or FIELD=VALUE,VALUE: trains each seed
    with each value; the metric of the seed is the mean over the values."""
    vmap_seeds: bool | None = None
    """Whether to train the seeds of a cell as one vmapped program; the default is to do so for
    networks of at most 30,000 parameters."""
    mesh: str | None = None
    """Devices, such as seed=4 or data=2,seed=2: the seeds of a cell are one vmapped program, spread
    over the devices of seed, and each batch over those of data."""
    output: Path | None = None
    """Directory of the runs, the table and the plot; the default is runs/compare/NAME. Finished
    runs in it are reused, and interrupted ones are resumed."""
    source: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Directory of finished runs, the --output of an earlier call, or its URL, gs://BUCKET/PATH.
    They are compared again, nothing is trained, and only --output is written."""
    data_dir: Path = dataclasses.field(default_factory=default_data_dir)
    """Directory of data files; the default is $GRU_JAX_DATA, then ~/.cache/gru_jax."""
    tensorboard: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also writes the metrics of each run as TensorBoard event files, to tensorboard/ of the
    run."""


def parse(arguments: list[str]) -> Parsed[CompareOptions] | None:
    """Returns the options, or None if --help was printed.

    Raises:
        UserError, SystemExit: as :func:`experiments.runs.cli_options.parse_options`.
    """
    parsed = parse_options(CompareOptions, arguments, PROGRAM, USAGE)
    if parsed is None:
        return None
    options = parsed.options
    for name in listed_cells(options):
        if name not in CELLS:
            raise UserError(
                f"--cells has {name!r}, but the cells are {', '.join(CELLS)}."
                f"{did_you_mean(name, CELLS)}"
            )
    for name in ("seeds", "trials"):
        value = getattr(options, name)
        if value < 1:
            raise UserError(f"--{name} is {value}, but should be 1 or more.")
    if options.search:
        check_space(options.config, parsed.path)
        _check_keys(options.config.sweep, where="sweep")
    for cell, values in options.config.cells.items():
        _check_keys(values, where=f"cells.{cell}")
    for name, values in options.config.variants.items():
        _check_keys(values, where=f"variants.{name}")
    if options.tensorboard:
        require("tensorboardX", "tensorboard", needed_by="--tensorboard")
    averaged_values(options.config, options.average_over)
    if options.source is not None:
        _check_source(options, options.source)
    if options.mesh is not None:
        _check_mesh(options, options.mesh)
    return parsed


def _check_keys(keys: Iterable[str], *, where: str) -> None:
    """Raises UserError if values by cell include a key that the command compare sets itself."""
    for key in ("task", "seed", "model.cell", "model.hidden_size"):
        if key in keys:
            raise UserError(f"{where}: {key} is chosen by the command compare.")


def _check_mesh(options: CompareOptions, text: str) -> None:
    mesh = parse_mesh(text, MESH_AXES)
    check_batch(options.config, mesh.get("data", 1), "--mesh")
    if "seed" not in mesh:
        return
    if options.seeds % mesh["seed"]:
        raise UserError(
            f"--seeds is {options.seeds}, but should be a multiple of {mesh['seed']}, the devices "
            "that --mesh spreads the seeds over."
        )
    if options.vmap_seeds is False:
        raise UserError("--mesh with seed cannot be given with --vmap-seeds False.")
    if options.config.training.profile_steps is not None:
        raise UserError("--mesh with seed cannot be given with training.profile_steps.")
    if options.config.training.patience is not None:
        raise UserError(
            f"--mesh with seed needs training.patience to be None, but it is "
            f"{options.config.training.patience}: seeds that stop early end at different steps."
        )


def listed_cells(options: CompareOptions) -> list[str]:
    """Returns the cells to compare."""
    return list(dict.fromkeys(options.cells.split(",")))


def _check_source(options: CompareOptions, source: Path) -> None:
    for name in ("search", "tensorboard", "mesh"):
        if getattr(options, name):
            raise UserError(f"--{name} cannot be given with --from, which trains nothing.")
    if not source.is_dir() and not bucket.url_of(source):
        what = "is a file" if source.exists() else "does not exist"
        raise UserError(
            f"--from is {source}, which {what}; expected the --output of an earlier compare."
        )
