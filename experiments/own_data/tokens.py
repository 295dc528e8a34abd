"""Tokens of a text of one's own: characters, pieces of a SentencePiece model, or integer ids."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np

from experiments.errors import UserError
from experiments.extras import require
from experiments.own_data.config import SequencesConfig
from experiments.own_data.dataset import Dataset
from experiments.own_data.splits import Splits
from experiments.own_data.stored import Stored

MAX_TOKENS = 2**16
MAX_CHARACTERS = 4096
LONGEST_LINE = 1000
"""Characters that SentencePiece takes at once."""


class Tokens(Stored, frozen=True):
    """What numbers stand for; the number after the last token is of unknown ones.

    Attributes:
        kind: what a token is.
        characters: those of the training part, sorted.
        pieces: the SentencePiece model, base64.
        count: the number of known tokens, V.
    """

    KEY: ClassVar[str] = "tokens"

    kind: Literal["characters", "pieces", "ids"]
    count: int
    characters: str = ""
    pieces: str = ""

    @property
    def unit(self) -> str:
        """A token in words."""
        return {"characters": "character", "pieces": "piece", "ids": "token"}[self.kind]

    def encode(self, values: np.ndarray, names: tuple[str, ...] | None) -> np.ndarray:
        """Returns the tokens of a sequence, (tokens,) int32; unknown ones are V.

        Args:
            values: (T,), ids, or indices of characters.
            names: the characters; None for ids.

        Raises:
            UserError: ids for a model of texts, or the reverse.
        """
        if (names is None) != (self.kind == "ids"):
            kinds = ("text", "integer ids")
            raise UserError(
                f"The data are {kinds[names is None]}, but the model was trained with "
                f"{kinds[names is not None]}."
            )
        if names is None:
            return np.where(values < self.count, values, self.count).astype(np.int32)
        if self.kind == "characters":
            known = {name: index for index, name in enumerate(self.characters)}
            table = np.array([known.get(name, self.count) for name in names], np.int32)
            return table[values.astype(int)]
        model = self._model()
        pieces = [model.encode(line) for line in _lines(values, names)]
        return np.array([piece for of_line in pieces for piece in of_line], np.int32)

    def decode(self, tokens: np.ndarray) -> str:
        """Returns the text of tokens; ids are separated by spaces."""
        if self.kind == "characters":
            return "".join(
                self.characters[i] if i < self.count else "\N{REPLACEMENT CHARACTER}"
                for i in tokens
            )
        if self.kind == "ids":
            return " ".join(map(str, tokens))
        return self._model().decode([int(i) for i in tokens if i < self.count])

    def names(self, tokens: np.ndarray) -> np.ndarray:
        """Returns the name of each token."""
        if self.kind == "characters":
            every = [*self.characters, "unknown"]
        elif self.kind == "ids":
            return tokens
        else:
            model = self._model()
            every = [*(model.id_to_piece(i) for i in range(self.count)), "unknown"]
        return np.array(every, dtype=object)[tokens]

    def _model(self) -> Any:
        require("sentencepiece", "experiments", needed_by="vocabulary")
        import sentencepiece

        return sentencepiece.SentencePieceProcessor(model_proto=base64.b64decode(self.pieces))

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Self:
        """See :class:`Stored`; the SentencePiece model is tried."""
        tokens = super().from_json(value, where)
        if tokens.kind == "pieces":
            try:
                tokens._model()
            except (binascii.Error, RuntimeError) as error:
                first = (str(error).splitlines() or ["cannot be read"])[0][:200]
                raise UserError(f"{where} is corrupted: tokens.pieces: {first}.") from None
        return tokens


def fit_tokens(dataset: Dataset, splits: Splits, config: SequencesConfig) -> Tokens:
    """Returns the tokens of the training part.

    Raises:
        UserError: there are too many, or too few, or the text has fewer pieces.
    """
    path, names = config.data.path, dataset.features[0].categories
    spans = splits.spans["train"]
    train = [values[a:b, 0] for values, (a, b) in zip(dataset.inputs, spans, strict=True)]
    if names is None:
        if config.vocabulary is not None:
            raise UserError(f"vocabulary is for texts, but {path} holds integer ids.")
        count = int(max(values.max() for values in train if len(values))) + 1
        if count > MAX_TOKENS:
            raise UserError(
                f"{path} has the id {count - 1:,}, but ids should be below {MAX_TOKENS:,}."
            )
        return Tokens(kind="ids", count=count)
    used = np.unique(np.concatenate(train)).astype(int)
    if config.vocabulary is None:
        if len(used) > MAX_CHARACTERS:
            raise UserError(
                f"{path} has {len(used):,} different characters, but should have at most "
                f"{MAX_CHARACTERS:,}. vocabulary: 4000 predicts pieces of words instead."
            )
        characters = "".join(sorted(names[i] for i in used))
        return Tokens(kind="characters", count=len(characters), characters=characters)
    require("sentencepiece", "experiments", needed_by="vocabulary")
    from experiments.datasets.multi30k import train_tokenizer

    lines = [line for values in train for line in _lines(values, names)]
    try:
        model = train_tokenizer(lines, config.vocabulary)
    except UserError as error:
        raise UserError(str(error).replace("pieces is", f"{path}: vocabulary is", 1)) from None
    return Tokens(
        kind="pieces",
        count=model.vocab_size(),
        pieces=base64.b64encode(model.serialized_model_proto()).decode(),
    )


def check_tokens(dataset: Dataset, path: str) -> None:
    """Checks that a data set has one feature of characters or of ids.

    Raises:
        UserError: it has others, or a value that is none.
    """
    if len(dataset.features) != 1:
        raise UserError(
            f"problem is next-token, but {path} has {len(dataset.features)} features: "
            f"{', '.join(feature.name for feature in dataset.features[:8])}. Name one by "
            "data.inputs."
        )
    name = dataset.features[0].name
    for of_sequence, values in zip(dataset.names, dataset.inputs, strict=True):
        wrong = np.flatnonzero(~((values[:, 0] >= 0) & (values[:, 0] == np.round(values[:, 0]))))
        if len(wrong):
            raise UserError(
                f"{path}: {name} is {values[wrong[0], 0]:g} in {of_sequence}, step {wrong[0]}, but "
                "should be an integer from 0."
            )


def _lines(values: np.ndarray, names: tuple[str, ...]) -> list[str]:
    """Returns the lines of a text; long ones are cut, which SentencePiece would leave out."""
    text = "".join(np.array(names, dtype=object)[values.astype(int)])
    return [
        line[begin : begin + LONGEST_LINE]
        for line in text.splitlines()
        for begin in range(0, len(line), LONGEST_LINE)
    ]
