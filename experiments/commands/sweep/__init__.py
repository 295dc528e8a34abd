"""The command `sweep`: searches for better hyper-parameters in a config's ranges."""
