"""The command `bench --gpu`: times GRUs on a GPU and checks the fused kernels there."""


def main(arguments: list[str]) -> int:
    """Runs the command, which is not imported earlier: modules of this package run as programs."""
    from experiments.bench.gpu import command

    return command.main(arguments)
