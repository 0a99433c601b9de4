"""The plain values of a settings file (`config.yaml`), before anything is made of them."""

from pathlib import Path
from typing import Any

import yaml

from scansynth.errors import InputError
from scansynth.records import shown_key
from scansynth.users_files import read_bytes

MOST_KB = 100
"""Size of a settings file; of more, YAML would take seconds to read."""


class _Loader(yaml.SafeLoader):
    """Plain values, each written where it stands, and no key twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse what stands for something else in the file: a few of them can stand for more than memory holds."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not read: write the value", problem_mark=mark)
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Refuse a key that is there twice, of which the first would be lost."""
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.MarkedYAMLError(problem=f"{shown_key(twice)} is there twice", problem_mark=node.start_mark)
        return node


def read_settings(path: Path) -> dict[Any, Any]:
    """What a settings file says, by key; `method` is among the keys.

    Raises:
        InputError: for a file that cannot be read, is no YAML, or names no method.
    """
    try:
        if not path.exists():
            raise InputError(f"{path}: no such settings file")
        content = yaml.load(read_bytes(path, MOST_KB * 1000).decode("utf-8"), _Loader)
    except RecursionError:
        raise InputError(f"{path}: not a YAML settings file (nested too deeply)") from None
    except (OSError, yaml.YAMLError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a YAML settings file ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or "method" not in content:
        raise InputError(f"{path}: a settings file needs the key 'method' (see `scansynth methods`)")
    return content
