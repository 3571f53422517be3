"""The `lep` command. A group's module is imported when one of its commands runs: `lep --help` imports click and this file."""

from __future__ import annotations

import importlib
import sys

import click

from .. import __version__
from ..base.errors import LeptonError, did_you_mean

# word: (module, the line that `lep --help` shows). A module holds a click command named like the word (`import` → `import_`).
COMMANDS = {
    "data": ("data", "Import, look at, split, compare and export datasets."),
    "train": ("train", "Train a model from a recipe (YAML)."),
    "tune": ("tune", "Search the spaces of a recipe: many trainings, the best one published."),
    "run": ("run", "Run a training script with its metrics tracked and its model published."),
    "runs": ("runs", "List and show runs."),
    "evaluate": ("evaluate", "Measure a model on a dataset, or compare two models."),
    "model": ("model", "Push, pull, list, show, tag and remove models."),
    "serve": ("serve", "Serve a model over HTTP."),
    "chat": ("chat", "Talk to a language model in the terminal."),
    "photon": ("photon", "Python classes and models as HTTP services: create, run, push, fetch."),
    "feedback": ("feedback", "Turn feedback on served predictions into a new dataset version."),
    "up": ("up", "Start the cloud of this machine: API, controllers, gateway."),
    "down": ("up", "Stop it; what runs in endpoints and jobs runs on."),
    "status": ("up", "Show whether it runs."),
    "doctor": ("up", "Look for what is wrong with it."),
    "deploy": ("deploy", "Make a model of the zoo an endpoint of the cloud, or give it a new version."),
    "login": ("login", "Choose a workspace: lep login -c WORKSPACE:TOKEN -u URL."),
    "logout": ("login", "Leave the workspace that was chosen."),
    "endpoint": ("endpoints", "Endpoints: create, list, status, update, restart, stop, remove, log, events."),
    "deployment": ("endpoints", "The same, by its older name."),
    "job": ("jobs", "Jobs: create, list, get, log, stop, start, clone, remove."),
    "pod": ("endpoints", "Dev pods: create, list, get, stop, remove."),
    "secret": ("others", "Secrets: create, list, remove."),
    "ingress": ("others", "Domains and the weights of the endpoints behind them."),
    "node": ("others", "Node groups, nodes and resource shapes."),
    "storage": ("storage", "Files of the workspace: ls, upload, download, rm, mkdir, mv, du."),
    "log": ("logs", "Logs of endpoints and jobs, by time and text; --follow."),
    "workspace": ("workspace", "Show, change, make and list workspaces; the audit log."),
    "members": ("workspace", "List, add, change and remove members of a workspace."),
    "keys": ("workspace", "List, make and revoke API keys."),
    "demo": ("demo", "Run the whole loop on handwritten digits."),
}


class LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return getattr(importlib.import_module(f"leptonai.cli.{COMMANDS[name][0]}"), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]):
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"there is no command {args[0]!r}. {did_you_mean(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lep")
def lep() -> None:
    """Lepton: data → train → evaluate → zoo → serve → feedback → data, on one machine."""


def main() -> None:
    """Run `lep`; an error for the user is one sentence on stderr and its exit code, never a traceback."""
    try:
        # What a command returns is None; an int is the status of click's own `ctx.exit(n)`.
        sys.exit(lep.main(standalone_mode=False))
    except click.Abort:
        click.echo("Stopped.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except LeptonError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
