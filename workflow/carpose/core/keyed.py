"""YAML and JSON that people write: a key that is there twice is an error; the libraries lose the first."""

import json
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor):
        node, lines = super().compose_mapping_node(anchor), {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line, place = key.start_mark.line + 1, (key.tag, key.value)
                if place in lines:
                    text = f"the key {key.value} is there twice, first in line {lines[place]}"
                    raise UserError(f"{self.name}, line {line}: {text}; keep one of them")
                lines[place] = line
        return node


def load_yaml(text: str, name: str) -> Any:
    """The content of a YAML text. Raises UserError where a key is there twice, with `name` for whose text it
    is; yaml.YAMLError where it is none."""
    loader = _Loader(text)
    loader.name = name
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file. Raises UserError that names the file, and the line of a key that is there
    twice."""
    try:
        return load_yaml(Path(path).read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not readable as YAML ({error})") from error


def load_json(text: str) -> Any:
    """The content of a JSON text. Raises ValueError where it is none or has a key twice."""
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)} is there twice")
    return content
