"""Corrupted and adversarial files of every format that weights are read from."""
