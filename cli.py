"""The command line's entry: `python cli.py COMMAND`. Each command is in commands/, errors become exit codes in
console.py (docs/DESIGN.md, Exit codes)."""

from __future__ import annotations

import click

from commands.dataset import dataset
from commands.evaluate import bench, evaluate, verify
from commands.export import export
from commands.predict import predict
from commands.train import experiment, train
from console import ErrorBoundary


@click.group(
    cls=ErrorBoundary,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error; may stand anywhere.")
@click.version_option(package_name="av1-partition-toolkit", prog_name="av1-partition-toolkit")
def main(debug: bool) -> None:
    """Train a predictor of AV1 partitions, export it exactly, predict with it at speed."""


for command in (train, experiment, evaluate, export, predict, verify, bench, dataset):
    main.add_command(command)

if __name__ == "__main__":
    main()
