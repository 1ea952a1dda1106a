"""python -m service.openapi [FILE]: write the service's OpenAPI document.

The file in the repository, openapi.yaml, is this command's output; a test compares them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml  # a tool of the development environment, which is where this runs

from service.app import create_app
from service.settings import Settings


class _Dumper(yaml.SafeDumper):
    """YAML as a person would write it: several lines as a block, no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def render_document() -> str:
    """The document as YAML, keys in the order in which they are declared."""
    document = create_app(Settings()).openapi()
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def main() -> None:
    """Write the document to the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, default=Path("openapi.yaml"))
    file: Path = parser.parse_args().file
    file.write_text(render_document(), encoding="utf-8")
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
