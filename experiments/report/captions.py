"""Captions of plots: what a file of this name shows, in words."""

from pathlib import Path

CAPTIONS = {
    "attention.png": "Attention of a test translation. A row is a symbol that was written, a "
    "column one of the source. Dark: where the model looked.",
    "compare.png": "Test metrics of each model: a tick per seed, the mean and the standard "
    "deviation. Vertical lines are baselines.",
    "confusion_matrix.png": "Confusion matrix of the test split. Rows are true classes, columns "
    "the predicted ones; off the diagonal are errors.",
    "curves.png": "Validation metrics of each model over the steps: the mean over the seeds, and "
    "the standard deviation as a band.",
    "film.png": "A film of the test split, the frames predicted from all frames before, and those "
    "predicted from the first frames alone.",
    "forecasts.png": "Forecasts of three windows of the test split. Gray is what the model has "
    "read, black what followed, colours are the forecasts.",
    "gaps.png": "Values of the test split that were hidden, and what the model fills in for them; "
    "gray is what it has read.",
    "gate_activity.png": "Gates while the network reads one test sequence, which is on top. A row "
    "is a unit, sorted by mean activity. Where the update gate is near 1, the unit keeps its "
    "state; where it is near 0, a new state replaces it. Where the reset gate is near 0, the new "
    "state does not depend on the one before.",
    "gradients.png": "How strongly the loss of the last step depends on earlier states, at "
    "initialisation and after training: the norm of the gradient over the distance from the last "
    "step. A line that falls steeply is a memory that fades.",
    "learning_curves.png": "Training loss and validation metrics over the steps. The dotted line "
    "is the best validation; the parameters of that step are tested.",
    "piano_roll.png": "A piece of the test split, and below it the probability of each note that "
    "the model predicted from the frames before.",
    "predictions.png": "Predicted and true sums of test sequences. On the dotted line they are "
    "equal.",
    "recall.png": "Probability of each symbol at the steps of recall, of a test sequence. Circles "
    "are the symbols to recall.",
    "sample.txt": "Text that the trained model has written.",
    "translations.txt": "Test sentences, their references and the model's translations.",
}


def caption(name: str) -> str:
    """Returns the caption of a file; of an unknown one, its name as words."""
    return CAPTIONS.get(name, Path(name).stem.replace("_", " ").capitalize())
