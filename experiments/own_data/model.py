"""What a finished run of one's own data can do without its training data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from experiments.export_spec import ExportSpec
from experiments.own_data.config import SequencesConfig
from experiments.own_data.dataset import Dataset
from experiments.task import Task
from experiments.typing import Params


@dataclass(frozen=True)
class Predictions:
    """What a model predicts of N sequences, in the data's own units.

    Attributes:
        columns: by name N arrays (rows_i,) of numbers or texts: one row for a sequence, for each
            of its steps, or for each step of the horizon after its end.
        rows: which of these.
        times: N arrays (rows_i,), of the rows; None where the data have none.
    """

    columns: Mapping[str, tuple[np.ndarray, ...]]
    rows: str
    times: tuple[np.ndarray, ...] | None = None


@dataclass(frozen=True)
class Model:
    """A model, restored from what a run stores of its data.

    Attributes:
        params: parameters of its structure.
        predict: (params, data set) -> predictions. The data set may lack targets.
        export_spec, carry, batch_weight: as in :class:`Task`.
    """

    params: Params
    predict: Callable[[Params, Dataset], Predictions]
    export_spec: ExportSpec | None = None
    carry: Any = None
    batch_weight: Callable[[Any], Any] | None = None


class Problem(Protocol):
    """Interface of a module in the folder `problems`."""

    def build(self, config: SequencesConfig, dataset: Dataset, /) -> Task:
        """Binds a config to its data.

        Raises:
            UserError: the data do not fit the problem.
        """
        ...

    def restore(self, config: SequencesConfig, record: Mapping[str, Any], where: str, /) -> Model:
        """Returns the model that `build` made, from the `record` of its task's `data`.

        Raises:
            UserError: the record is corrupted; the message begins with `where`.
        """
        ...
