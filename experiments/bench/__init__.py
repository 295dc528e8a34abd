"""The command `bench`: times our GRU and others on a CPU or a GPU, or compares two revisions."""


def main(arguments: list[str]) -> int:
    """Runs the command; `--gpu`, `--rl`, `--devices` and `--revisions` have other options."""
    if "--gpu" in arguments:
        from experiments.bench import gpu

        return gpu.main([argument for argument in arguments if argument != "--gpu"])
    if "--rl" in arguments:
        from experiments.bench import rl

        return rl.main([argument for argument in arguments if argument != "--rl"])
    if "--devices" in arguments:
        from experiments.bench import devices

        return devices.main([argument for argument in arguments if argument != "--devices"])
    if any(argument.split("=")[0] == "--revisions" for argument in arguments):
        from experiments.bench import revisions

        return revisions.main(arguments)
    from experiments.bench import command

    return command.main(arguments)
