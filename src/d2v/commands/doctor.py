"""``d2v doctor``: what this machine can do, what is missing, how to get it."""

import argparse
from pathlib import Path

from d2v.errors import UserError
from d2v.monitoring.machine import MISSING, check_machine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data", type=Path, action="append", default=[], help="a data folder to look at too")


def run(args: argparse.Namespace) -> None:
    """Print the findings.

    Raises:
        UserError: Something that training needs is missing.
    """
    findings = check_machine(args.data)
    width = max(len(finding.subject) for finding in findings)
    missing = []
    for state, subject, text in findings:
        print(f"{state:>7}  {subject:<{width}}  {text}")
        if state == MISSING:
            missing.append(subject)
    if missing:
        raise UserError(f"missing: {', '.join(missing)}")
