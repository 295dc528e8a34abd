"""Sentence pairs of a parallel corpus, as numbers of subword pieces."""

import functools
import gzip
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sentencepiece

from experiments.datasets import registry as data
from experiments.errors import UserError
from experiments.task import Array

PAD, UNKNOWN, BEGIN, END = range(4)
LANGUAGES = ("de", "en")
SPLITS = ("train", "validation", "test")


class Pairs(NamedTuple):
    """Sentences and their translations, padded.

    Attributes:
        source: pieces, (N, S) int32.
        source_lengths: (N,) int32.
        target: pieces between the begin and the end symbol, (N, T + 1) int32.
        target_lengths: (N,) int32, of what is to be predicted: pieces and the end symbol.
    """

    source: Array
    source_lengths: Array
    target: Array
    target_lengths: Array


class Corpus(NamedTuple):
    """A parallel corpus.

    Attributes:
        pieces: by language, what cuts a text into pieces and puts it together again.
        texts: by split, sentences as they are written, by language.
    """

    pieces: dict[str, sentencepiece.SentencePieceProcessor]
    texts: dict[str, dict[str, list[str]]]

    def encode(self, split: str, language: str) -> list[list[int]]:
        """Each sentence of a split in pieces."""
        return self.pieces[language].encode(self.texts[split][language])


@functools.lru_cache(maxsize=2)
def read_multi30k(data_dir: Path, num_pieces: int) -> Corpus:
    """Reads Multi30k (Elliott et al. 2016, arXiv 1605.00459), task 1, German and English.

    Raises:
        UserError: if a file is absent or damaged, or so many pieces cannot be found.
    """
    texts = {
        split: {
            language: read_sentences(data.locate(data.MULTI30K[split, language], data_dir))
            for language in LANGUAGES
        }
        for split in SPLITS
    }
    for split, of_split in texts.items():
        numbers = {language: len(of_split[language]) for language in LANGUAGES}
        if len(set(numbers.values())) > 1:
            raise UserError(f"Multi30k, {split}: the numbers of sentences differ: {numbers}.")
    pieces = {language: find_pieces(texts["train"][language], num_pieces) for language in LANGUAGES}
    return Corpus(pieces, texts)


def read_sentences(path: Path) -> list[str]:
    """Reads a compressed text, a sentence a line.

    Raises:
        UserError: if it is none.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
            return [line.strip() for line in file]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as compressed text: {error}.") from None


def find_pieces(sentences: Sequence[str], number: int) -> sentencepiece.SentencePieceProcessor:
    """Finds subword pieces by byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909).

    Raises:
        UserError: if there are not so many in the text.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="bpe",
            vocab_size=number,
            character_coverage=1.0,
            pad_id=PAD,
            unk_id=UNKNOWN,
            bos_id=BEGIN,
            eos_id=END,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(
            f"pieces is {number}, but so many cannot be found in {len(sentences)} sentences: "
            f"{error}."
        ) from None
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def pad(
    sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], longest: int | None = None
) -> Pairs:
    """Puts pairs side by side, padded to `longest` pieces or to the longest that comes."""
    longest = longest or max(map(len, [*sources, *targets]))
    source = np.full((len(sources), longest), PAD, np.int32)
    target = np.full((len(targets), longest + 2), PAD, np.int32)
    for row, pieces in zip(source, sources, strict=True):
        row[: len(pieces)] = pieces
    for row, pieces in zip(target, targets, strict=True):
        row[: len(pieces) + 2] = [BEGIN, *pieces, END]
    return Pairs(
        source,
        np.array([len(pieces) for pieces in sources], np.int32),
        target,
        np.array([len(pieces) + 1 for pieces in targets], np.int32),
    )
