"""The commands of `python -m experiments`, a module each."""
