"""Multi30k: sentence pairs of a parallel corpus, tokenised into subword pieces."""

import functools
import gzip
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sentencepiece

from experiments.datasets import registry
from experiments.errors import UserError
from experiments.typing import Array

PAD, UNKNOWN, BEGIN, END = range(4)
LANGUAGES = ("de", "en")
SPLITS = ("train", "validation", "test")


class SentencePairs(NamedTuple):
    """Padded sentences and translations.

    Attributes:
        source: indices of pieces, (N, S) int32.
        source_lengths: (N,) int32.
        target: begin symbol, pieces, end symbol, (N, T + 1) int32.
        target_lengths: (N,) int32, number of predicted symbols: the pieces and the end symbol.
    """

    source: Array
    source_lengths: Array
    target: Array
    target_lengths: Array


class Corpus(NamedTuple):
    """A parallel corpus.

    Attributes:
        tokenizers: by language.
        texts: by split and language, the sentences.
    """

    tokenizers: dict[str, sentencepiece.SentencePieceProcessor]
    texts: dict[str, dict[str, list[str]]]

    def encode(self, split: str, language: str) -> list[list[int]]:
        """Returns the sentences of a split as indices of pieces."""
        return self.tokenizers[language].encode(self.texts[split][language])


@functools.lru_cache(maxsize=2)
def read_multi30k(data_dir: Path, num_pieces: int) -> Corpus:
    """Reads Multi30k (Elliott et al. 2016, arXiv 1605.00459), task 1, German and English.

    Raises:
        UserError: a file is absent or corrupted, or the vocabulary cannot have so many pieces.
    """
    texts = {
        split: {
            language: read_sentences(registry.locate(registry.MULTI30K[split, language], data_dir))
            for language in LANGUAGES
        }
        for split in SPLITS
    }
    for split, of_split in texts.items():
        counts = {language: len(of_split[language]) for language in LANGUAGES}
        if len(set(counts.values())) > 1:
            raise UserError(f"Multi30k, {split}: the numbers of sentences differ: {counts}.")
    tokenizers = {
        language: train_tokenizer(texts["train"][language], num_pieces) for language in LANGUAGES
    }
    return Corpus(tokenizers, texts)


def read_sentences(path: Path) -> list[str]:
    """Reads a gzip-compressed text of one sentence per line.

    Raises:
        UserError: an invalid file.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
            return [line.strip() for line in file]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as compressed text: {error}.") from None


def train_tokenizer(
    sentences: Sequence[str], num_pieces: int
) -> sentencepiece.SentencePieceProcessor:
    """Trains a byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909).

    Raises:
        UserError: the text has fewer pieces.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="bpe",
            vocab_size=num_pieces,
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
            f"pieces is {num_pieces}, which is too many for {len(sentences)} sentences: {error}."
        ) from None
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def pad(
    sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], longest: int | None = None
) -> SentencePairs:
    """Returns a batch of pairs, padded to `longest` pieces, or to the longest sentence."""
    longest = longest or max(map(len, [*sources, *targets]))
    source = np.full((len(sources), longest), PAD, np.int32)
    target = np.full((len(targets), longest + 2), PAD, np.int32)
    for row, pieces in zip(source, sources, strict=True):
        row[: len(pieces)] = pieces
    for row, pieces in zip(target, targets, strict=True):
        row[: len(pieces) + 2] = [BEGIN, *pieces, END]
    return SentencePairs(
        source,
        np.array([len(pieces) for pieces in sources], np.int32),
        target,
        np.array([len(pieces) + 1 for pieces in targets], np.int32),
    )
