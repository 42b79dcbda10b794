"""Readers of YAML and JSON that refuse duplicate keys. The libraries silently keep the last value only."""

import json
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError
from .files import one_line


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: dict) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first_lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line, tagged = key.start_mark.line + 1, (key.tag, key.value)  # 1 and "1" are different keys
                if tagged in first_lines:
                    text = f"the key {key.value} occurs twice, first in line {first_lines[tagged]}"
                    raise UserError(f"{self.name}, line {line}: {text}; keep one of them")
                first_lines[tagged] = line
        return node


def load_yaml(text: str, name: str) -> Any:
    """The content of a YAML text. Raises UserError where a key occurs twice (`name` says in the message where
    the text comes from), yaml.YAMLError where the text is not YAML."""
    loader = _Loader(text)
    loader.name = name
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file. Raises UserError where the file cannot be read as YAML or a key occurs
    twice."""
    try:
        return load_yaml(Path(path).read_text(encoding="utf-8"), str(path))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not readable as YAML ({error.problem or error.context})") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not readable as YAML ({one_line(error)})") from error


def load_json(text: str) -> Any:
    """The content of a JSON text. Raises ValueError where the text is not JSON or a key occurs twice."""
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)} occurs twice")
    return content
