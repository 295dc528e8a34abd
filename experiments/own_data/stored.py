"""What was fitted to training data, as a run stores it in its data.json."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from experiments.errors import UserError


class Stored(BaseModel, frozen=True):
    """A part of data.json, with the name `KEY`. Unknown keys and non-finite numbers are errors."""

    KEY: ClassVar[str] = ""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    def to_json(self) -> dict[str, Any]:
        """Returns it as values of JSON."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Self:
        """Returns what :meth:`to_json` returned.

        Raises:
            UserError: it is something else; the message begins with `where`.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join([cls.KEY, *map(str, first["loc"])])
            raise UserError(f"{where} is corrupted: {key}: {first['msg']}.") from None
