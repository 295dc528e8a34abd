"""The command `bench`: our GRU beside other libraries', in time and memory, on a CPU or a GPU."""


def main(arguments: list[str]) -> int:
    """Runs the command; with `--gpu` the one for GPUs, which has other options."""
    if "--gpu" in arguments:
        from experiments.bench import gpu

        return gpu.main([argument for argument in arguments if argument != "--gpu"])
    from experiments.bench import command

    return command.main(arguments)
