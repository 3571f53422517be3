"""`lep demo`: the whole loop on real data."""

from __future__ import annotations

from pathlib import Path

import click

from ...base.errors import Missing
from ...base.home import Home


@click.command()
@click.option(
    "--data",
    "path",
    type=click.Path(),
    help="MNIST's idx files, an image folder or a CSV. Default: the UCI handwritten digits.",
)
@click.option("--target", help="The column to predict. Default: `label`, or the last column.")
@click.option("--name", help="Name of the dataset, the model and the service. Default: `digits`, or that of the path.")
@click.option(
    "--port",
    default=8080,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port of the service; another if it is taken.",
)
@click.option("--seed", default=0, show_default=True)
@click.option("--exit", "leave", is_flag=True, help="Stop the service at the end, for scripts.")
def demo(path: str | None, target: str | None, name: str | None, port: int, seed: int, leave: bool) -> None:
    """Run the loop: import, train, evaluate, publish, serve, feedback, retrain, compare, promote, deploy on the cloud."""
    try:
        import lance  # noqa: F401
        import sqlalchemy  # noqa: F401
        import torch  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise Missing(error.name or "a package", "local") from error
    from ...train.fit import NO_NAMES, name_of
    from .loop import Loop

    if name is None and path:
        stem, folder = Path(path).name.split(".")[0], Path(path).absolute().parent.name
        name = name_of(folder if stem in NO_NAMES else stem)  # `train.csv` says nothing of what is in it
    Loop(name or "digits", Home.current(), seed=seed, port=port).run(path, target, leave)
