"""Translation: German captions of photographs into English, with attention and beam search."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
import sacrebleu
from pydantic import Field, model_validator
from sklearn.feature_extraction.text import TfidfVectorizer

from experiments import plots
from experiments.config import ExperimentConfig
from experiments.datasets.multi30k import BEGIN, END, Corpus, Pairs, pad, read_multi30k
from experiments.errors import UserError
from experiments.files import write_atomically
from experiments.models.translator import Translator, build_translator, smoothed_cross_entropy
from experiments.task import Array, Figures, Params, Split, Task
from gru_jax import training

SOURCE, TARGET = "de", "en"
TRANSLATED_AT_ONCE = 128
SHOWN = 8


class Config(ExperimentConfig, frozen=True):
    """Translates Multi30k from German to English."""

    task: Literal["translation"] = "translation"
    pieces: int = Field(default=4000, ge=8, description="Subword pieces of each language.")
    longest: int = Field(
        default=40,
        ge=1,
        description="Pieces of the longest sentences that are trained on, and of a translation.",
    )
    length_classes: int = Field(
        default=8,
        ge=1,
        description="Classes of sentences of like lengths; a batch is padded to the longest of "
        "its class, and for each class a program is compiled.",
    )
    label_smoothing: float = Field(
        default=0.1, ge=0, lt=1, description="Share of the target spread over all pieces."
    )
    beams: int = Field(default=5, ge=1, description="Hypotheses of the beam search.")

    @model_validator(mode="after")
    def check_direction(self) -> Self:
        """Refuses what has no meaning: the encoder reads both ways, the decoder cannot."""
        if self.model.bidirectional:
            raise ValueError(
                "model.bidirectional is True, but should be False: the encoder reads in both "
                "directions anyway, and the decoder writes what it would read."
            )
        return self


def build(config: Config, data_dir: Path) -> Task:
    """Binds a config to the corpus in `data_dir`.

    Raises:
        UserError: if a file is absent or damaged, or no sentence is short enough.
    """
    corpus = read_multi30k(data_dir, config.pieces)
    translator = build_translator(config.model, config.pieces, config.pieces, seed=config.seed)
    batch_at = Ordered(corpus, config)

    def loss(
        params: Params, batch: Pairs, key: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        read, right = batch.target[:, :-1], jnp.asarray(batch.target[:, 1:])
        logits, _ = translator.logits(params, batch.source, batch.source_lengths, read, key)
        smoothing = 0.0 if key is None else config.label_smoothing
        losses = smoothed_cross_entropy(logits, right, smoothing)
        counts = jnp.arange(right.shape[1])[None] < jnp.asarray(batch.target_lengths)[:, None]
        return jnp.mean(losses, where=counts), {}

    @jax.jit
    def losses(params: Params, batch: Pairs) -> tuple[dict[str, jax.Array], jax.Array]:
        number = jnp.sum(jnp.asarray(batch.target_lengths)).astype(jnp.float32)
        return {"cross_entropy": number * loss(params, batch, None)[0]}, number

    translate = make_translate(translator, corpus, config)

    def figures(params: Params, split: Split) -> Figures:
        sentences = corpus.encode(split, SOURCE)
        pairs = pad(sentences, corpus.encode(split, TARGET))
        found = training.mean_metrics(losses, params, chunks(pairs))
        return {"bleu": bleu(translate(params, sentences), corpus.texts[split]), **found}

    def draw(params: Params, directory: Path) -> None:
        sentences = corpus.encode("test", SOURCE)[:SHOWN]
        translations = translate(params, sentences)
        write_atomically(
            directory / "translations.txt",
            "\n".join(
                f"{SOURCE}    {source}\n{TARGET}    {reference}\nours  {ours}\n"
                for source, reference, ours in zip(
                    *(corpus.texts["test"][language] for language in (SOURCE, TARGET)),
                    translations,
                    strict=False,
                )
            ),
        )
        pieces = corpus.pieces[TARGET].encode(translations[0])
        pair = pad(sentences[:1], [pieces])
        _, attention = jax.jit(translator.logits)(
            params, pair.source, pair.source_lengths, pair.target[:, :-1]
        )
        plots.attention(
            np.asarray(attention)[0, : len(pieces) + 1, : len(sentences[0])],
            asked=[*map(corpus.pieces[TARGET].id_to_piece, pieces), "end"],
            seen=list(map(corpus.pieces[SOURCE].id_to_piece, sentences[0])),
            title="Attention to the first sentence of the test split",
            path=directory / "attention.png",
        )

    return Task(
        params=translator.params,
        loss=loss,
        batch_at=batch_at,
        figures=figures,
        labels={"bleu": "BLEU", "cross_entropy": "cross-entropy per piece (nats)"},
        loss_figure="cross_entropy",
        monitor="bleu",
        mode="max",
        baselines=partial(baselines, corpus.texts),
        draw=draw,
    )


class Ordered:
    """The batch of each step: sentences of like lengths, so that little of it is padding.

    Which class of lengths a step has is a function of the step alone, and which sentences of it,
    of (seed, step).
    """

    def __init__(self, corpus: Corpus, config: Config):
        encoded = zip(corpus.encode("train", SOURCE), corpus.encode("train", TARGET), strict=True)
        pairs = [pair for pair in encoded if 0 < max(map(len, pair)) <= config.longest]
        if len(pairs) < config.length_classes:
            raise UserError(
                f"longest is {config.longest}, but of all sentences {len(pairs)} have so few "
                "pieces."
            )
        pairs.sort(key=lambda pair: max(map(len, pair)))
        bounds = np.linspace(0, len(pairs), config.length_classes + 1).round().astype(int)
        self.classes = [
            pad([source for source, _ in part], [target for _, target in part])
            for part in (pairs[first:last] for first, last in itertools.pairwise(bounds))
        ]
        self.batches = [
            training.ShuffledIndices(config.seed, len(pairs.source), config.training.batch_size)
            for pairs in self.classes
        ]

    def __call__(self, step: int) -> Pairs:
        """Returns the batch of a step."""
        # Every class comes once in so many steps, in an order drawn anew each time.
        turn, place = divmod(step, len(self.classes))
        chosen = np.random.default_rng(turn).permutation(len(self.classes))[place]
        indices = self.batches[chosen](turn)
        return Pairs(*(array[indices] for array in self.classes[chosen]))


def make_translate(
    translator: Translator, corpus: Corpus, config: Config
) -> Callable[[Params, list[list[int]]], list[str]]:
    """Returns (params, sentences in pieces) -> texts."""

    @jax.jit
    def search(params: Params, source: Array, lengths: Array) -> jax.Array:
        found = translator.translate(
            params,
            source,
            lengths,
            beams=config.beams,
            longest=config.longest,
            begin=BEGIN,
            end=END,
        )
        return found.symbols[:, 0]

    def translate(params: Params, sentences: list[list[int]]) -> list[str]:
        pairs = pad(sentences, [[]] * len(sentences))
        found = [
            np.asarray(search(params, batch.source, batch.source_lengths))
            for batch in chunks(pairs)
        ]
        pieces = [row[row != END].tolist() for row in np.concatenate(found)]
        return corpus.pieces[TARGET].decode(pieces)

    return translate


def chunks(pairs: Pairs) -> Iterator[Pairs]:
    """Yields pairs in parts of a size that fits the memory."""
    for first in range(0, len(pairs.source), TRANSLATED_AT_ONCE):
        yield Pairs(*(array[first : first + TRANSLATED_AT_ONCE] for array in pairs))


def bleu(translations: list[str], texts: dict[str, list[str]]) -> float:
    """BLEU in percent, with the settings sacrebleu has of its own accord (Post 2018)."""
    return sacrebleu.corpus_bleu(translations, [texts[TARGET]]).score


def baselines(texts: dict[str, dict[str, list[str]]]) -> dict[str, Figures]:
    """Returns the test figures of two translations that need no network."""
    source = texts["test"][SOURCE]
    weights = TfidfVectorizer(token_pattern=r"\w+")
    train = weights.fit_transform(texts["train"][SOURCE])
    nearest = np.asarray((weights.transform(source) @ train.T).argmax(axis=1)).ravel()
    return {
        "the German sentence": {"bleu": bleu(source, texts["test"])},
        "translation of the nearest training sentence": {
            "bleu": bleu([texts["train"][TARGET][i] for i in nearest], texts["test"])
        },
    }
