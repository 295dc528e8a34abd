"""The command `bench --revisions`: the speed of this revision and of an older one."""

from experiments.bench.revisions.command import main

__all__ = ["main"]
