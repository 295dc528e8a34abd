"""Experiments described by one YAML file: `python -m experiments train configs/digits.yaml`."""
