"""Experiments that one YAML file describes: `python -m experiments train configs/digits.yaml`."""
