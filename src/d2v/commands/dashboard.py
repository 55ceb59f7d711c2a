"""``d2v dashboard``: a dashboard and a report for Weights & Biases."""

import argparse

from d2v.commands.wandb_connection import why_unreachable
from d2v.errors import UserError
from d2v.monitoring.dashboard.dashboard_sections import MEDIA, outline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--print", action="store_true", help="show what it holds; no network is used")
    what.add_argument(
        "--push", metavar="ENTITY/PROJECT", help="save it to this project, as a new view and a new report"
    )
    parser.add_argument(
        "--media",
        nargs="+",
        metavar="NAME",
        default=MEDIA,
        help=f"names of the encoders of your joint runs (default: {' '.join(MEDIA)})",
    )


def run(args: argparse.Namespace) -> None:
    """Print or save it.

    Raises:
        UserError: The project is no ENTITY/PROJECT, nobody is logged in, a package is missing, or W&B refuses.
    """
    if args.print:
        print(outline(args.media))
        return
    entity, _, project = args.push.partition("/")
    if not entity or not project or "/" in project:
        raise UserError(f"--push {args.push}: write ENTITY/PROJECT, such as my-team/d2v")
    from d2v.monitoring.dashboard.wandb_views import push

    if reason := why_unreachable():
        raise UserError(f"--push {args.push}: {reason}; log in with `wandb login`, or set WANDB_API_KEY")
    for address in push(entity, project, args.media):
        print(address)
