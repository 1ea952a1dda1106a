"""The form of every command's --help."""

from __future__ import annotations

import argparse


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Tells the default of every option that has one, and of those that tell it themselves not."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        nothing = action.default is None or action.default is False or action.default == []
        if nothing or "(default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)
