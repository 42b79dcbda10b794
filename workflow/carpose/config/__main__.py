"""Write the files that are made from the configuration's keys: the JSON schema and docs/configuration.md."""

import argparse

from carpose.core.files import run_main, write_text

from .page import ROOT, page_text, schema_text


def main() -> None:
    argparse.ArgumentParser(prog="python -m carpose.config", description=__doc__).parse_args()
    write_text(ROOT / "workflow" / "schemas" / "config.schema.json", schema_text())
    write_text(ROOT / "docs" / "configuration.md", page_text())


if __name__ == "__main__":
    run_main(main)
