"""The form of every command's line and --help."""

from __future__ import annotations

import argparse


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Tells the default of every option that has one, and of those that tell it themselves not."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # True is that of a switch which turns something off.
        untold = isinstance(action.default, bool) or action.default in (None, [])
        if untold or "(default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


def command_parser(
    module: str, description: str, *, epilog: str | None = None
) -> argparse.ArgumentParser:
    """The parser of `python -m training.<module>`.

    Options must be written out: training.series looks for some of them in the line of another
    command, and an abbreviation would go past it.
    """
    return argparse.ArgumentParser(
        prog=f"python -m training.{module}",
        description=description,
        epilog=epilog,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
