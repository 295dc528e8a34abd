"""Translation of photograph captions, German to English, with attention and beam search."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import sacrebleu
from sklearn.feature_extraction.text import TfidfVectorizer

from experiments import plots
from experiments.batches import shuffled_batches
from experiments.datasets.multi30k import BEGIN, END, Corpus, SentencePairs, pad, read_multi30k
from experiments.errors import UserError
from experiments.evaluation import over_devices, to_host
from experiments.files import write_atomically
from experiments.models.translator import Translator, build_translator, smoothed_cross_entropy
from experiments.task import Task
from experiments.tasks.configs import TranslationConfig as Config
from experiments.typing import Array, Metrics, Params, Split
from gru_jax import training

SOURCE, TARGET = "de", "en"
TRANSLATE_BATCH = 128
NUM_PLOTTED = 8


def build(config: Config, data_dir: Path) -> Task:
    """Binds a config to the corpus in `data_dir`.

    Raises:
        UserError: a file is absent or corrupted, or too few sentences are short enough.
    """
    corpus = read_multi30k(data_dir, config.pieces)
    translator = build_translator(config.model, config.pieces, config.pieces, seed=config.seed)
    batch_at = BucketedBatches(corpus, config)

    def loss(
        params: Params, batch: SentencePairs, key: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        inputs, labels = batch.target[:, :-1], jnp.asarray(batch.target[:, 1:])
        logits, _ = translator.logits(params, batch.source, batch.source_lengths, inputs, key)
        smoothing = 0.0 if key is None else config.label_smoothing
        losses = smoothed_cross_entropy(logits, labels, smoothing)
        is_valid = jnp.arange(labels.shape[1])[None] < jnp.asarray(batch.target_lengths)[:, None]
        return jnp.mean(losses, where=is_valid), {}

    @jax.jit
    def losses(params: Params, batch: SentencePairs) -> tuple[dict[str, jax.Array], jax.Array]:
        count = jnp.sum(jnp.asarray(batch.target_lengths)).astype(jnp.float32)
        return {"cross_entropy": count * loss(params, batch, None)[0]}, count

    translate = make_translate(translator, corpus, config)

    def evaluate(params: Params, split: Split) -> Metrics:
        sentences = corpus.encode(split, SOURCE)
        pairs = pad(sentences, corpus.encode(split, TARGET))
        batches = over_devices(params, split_batches(pairs))
        metrics = training.mean_metrics(losses, params, batches)
        return {"bleu": bleu(translate(params, sentences), corpus.texts[split]), **metrics}

    def plot(params: Params, directory: Path) -> None:
        sentences = corpus.encode("test", SOURCE)[:NUM_PLOTTED]
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
        pieces = corpus.tokenizers[TARGET].encode(translations[0])
        first = pad(sentences[:1], [pieces])
        _, attention = jax.jit(translator.logits)(
            params, first.source, first.source_lengths, first.target[:, :-1]
        )
        plots.attention(
            np.asarray(attention)[0, : len(pieces) + 1, : len(sentences[0])],
            target=[*map(corpus.tokenizers[TARGET].id_to_piece, pieces), "end"],
            source=list(map(corpus.tokenizers[SOURCE].id_to_piece, sentences[0])),
            title="Attention to the first sentence of the test split",
            path=directory / "attention.png",
        )

    return Task(
        params=translator.params,
        loss=loss,
        batch_at=batch_at,
        evaluate=evaluate,
        metric_labels={"bleu": "BLEU", "cross_entropy": "cross-entropy per piece (nats)"},
        loss_metric="cross_entropy",
        monitor="bleu",
        baselines=partial(baselines, corpus.texts),
        plot=plot,
        batch_weight=lambda batch: jnp.sum(batch.target_lengths),
    )


class BucketedBatches:
    """The batch of each step, of sentences of similar lengths, which keeps padding small.

    The bucket of a step is a function of the step only, its sentences one of (seed, step).
    """

    def __init__(self, corpus: Corpus, config: Config):
        encoded = zip(corpus.encode("train", SOURCE), corpus.encode("train", TARGET), strict=True)
        pairs = [pair for pair in encoded if 0 < max(map(len, pair)) <= config.longest]
        if len(pairs) < config.length_classes:
            raise UserError(
                f"longest is {config.longest}, but only {len(pairs)} sentences are that short."
            )
        pairs.sort(key=lambda pair: max(map(len, pair)))
        bounds = np.linspace(0, len(pairs), config.length_classes + 1).round().astype(int)
        self.buckets = [
            pad([source for source, _ in bucket], [target for _, target in bucket])
            for bucket in (pairs[first:last] for first, last in itertools.pairwise(bounds))
        ]
        self.batches = [
            shuffled_batches(config.seed, len(pairs.source), config.training.batch_size)
            for pairs in self.buckets
        ]

    def __call__(self, step: int) -> SentencePairs:
        """Returns the batch of a step."""
        # Each cycle visits every bucket once, in another random order.
        cycle, position = divmod(step, len(self.buckets))
        chosen = np.random.default_rng(cycle).permutation(len(self.buckets))[position]
        indices = self.batches[chosen](cycle)
        return SentencePairs(*(array[indices] for array in self.buckets[chosen]))


def make_translate(
    translator: Translator, corpus: Corpus, config: Config
) -> Callable[[Params, list[list[int]]], list[str]]:
    """Returns (params, sentences as indices of pieces) -> texts."""

    @jax.jit
    def search(params: Params, source: Array, lengths: Array) -> jax.Array:
        beam = translator.translate(
            params,
            source,
            lengths,
            beams=config.beams,
            longest=config.longest,
            begin=BEGIN,
            end=END,
        )
        return beam.symbols[:, 0]

    def translate(params: Params, sentences: list[list[int]]) -> list[str]:
        pairs = pad(sentences, [[]] * len(sentences))
        symbols = [
            to_host(search(params, batch.source, batch.source_lengths))
            for batch in over_devices(params, split_batches(pairs))
        ]
        pieces = [row[row != END].tolist() for row in np.concatenate(symbols)]
        return corpus.tokenizers[TARGET].decode(pieces)

    return translate


def split_batches(pairs: SentencePairs) -> Iterator[SentencePairs]:
    """Yields pairs in batches of a size that fits into memory."""
    for first in range(0, len(pairs.source), TRANSLATE_BATCH):
        yield SentencePairs(*(array[first : first + TRANSLATE_BATCH] for array in pairs))


def bleu(translations: list[str], texts: dict[str, list[str]]) -> float:
    """Returns BLEU in percent, with sacrebleu's default settings (Post 2018)."""
    return sacrebleu.corpus_bleu(translations, [texts[TARGET]]).score


def baselines(texts: dict[str, dict[str, list[str]]]) -> dict[str, Metrics]:
    """Returns the test metrics of two translations that need no network."""
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
