"""``d2v report``: one HTML file about one or several runs."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run; several are compared")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.html",
        help="default: report.html in the run's folder; of several comparison.html in that of the first",
    )


def run(args: argparse.Namespace) -> None:
    """Write the page; see :func:`d2v.monitoring.report.page.report`."""
    from d2v.monitoring.report.page import report

    print(report(args.runs, args.output))
