"""The command `train`: trains an experiment and reports it next to its baselines."""
