"""The command line of the experiments: `python -m gru_jax`, the same as `gru-jax`."""

import sys

from gru_jax_experiments import main

if __name__ == "__main__":
    sys.exit(main())
