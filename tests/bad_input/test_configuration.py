"""Damaged configuration files and values of any kind: one line per error, which names the key or the line.

Values of single keys that are wrong in themselves are in tests/config/test_check.py.
"""

import copy
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carpose.config.check import check
from carpose.config.load import laid_over, parsed, refuse_duplicate_keys, train_configs, with_models
from carpose.config.schema import config_schema
from carpose.core.errors import UserError
from carpose.core.keyed import read_yaml
from tests.bad_input.damage import Case, as_folder, cases, link, recode, remove, write
from tests.helpers import REPOSITORY

VALID = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
OWN = "own.yaml"


def content(text: str):
    return write(OWN, text)


SYNTAX = [
    Case("tabs", content("train:\n\tlr: 0.1\n"), r"own.yaml, line 2: not readable as YAML"),
    Case("open bracket", content("fuse: {rounds: [0, 1}\n"), r"own.yaml, line 1: not readable as YAML"),
    Case(
        "open quotation mark", content("run: 'demo\nrounds: 1\n"), r"own.yaml, line 3: not readable as YAML"
    ),
    Case(
        "wrong indentation",
        content("train:\n  lr: 0.1\n epochs: 3\n"),
        r"own.yaml, line 3: not readable as YAML",
    ),
    Case("two documents", content("rounds: 1\n---\nrounds: 2\n"), r"own.yaml, line 2: not readable as YAML"),
    Case(
        "an object of Python",
        content("run: !!python/object/apply:os.getcwd []\n"),
        r"own.yaml, line 1: not readable .*constructor",
    ),
    Case("an unknown anchor", content("train: *above\n"), r"own.yaml, line 1: not readable as YAML"),
    Case("zero bytes", content("rounds: 1\n\0\n"), r"own.yaml: not readable as YAML"),
    Case("Latin-1", write(OWN, "data_root: /daten/größe\n".encode("latin-1")), r"own.yaml: not readable"),
    Case("a checkpoint", write(OWN, b"PK\x03\x04" + bytes(range(256))), r"own.yaml: not readable as YAML"),
    Case("a key twice", content("rounds: 1\nrounds: 2\n"), r"own.yaml, line 2: the key rounds occurs twice"),
    Case(
        "a model twice",
        content("models:\n  a: {backbone: dla34}\n  a: {backbone: dla34}\n"),
        r"line 3: the key a",
    ),
    Case("a merged key", content("train:\n  <<: [1]\n"), r"own.yaml, line 2: not readable as YAML"),
    Case("a key that is a list", content("? [a]\n: 1\n"), r"own.yaml, line 1: not readable as YAML"),
    Case("missing", remove(OWN), r"own.yaml: not readable as YAML .*No such file"),
    Case("a folder", as_folder(OWN), r"own.yaml: not readable as YAML .*Is a directory"),
    Case("a link to itself", link(OWN, OWN), r"own.yaml: not readable as YAML .*Too many levels"),
    Case("byte order mark", recode(OWN, lambda text: b"\xef\xbb\xbf" + text), "", ""),
    Case("lines of Windows", recode(OWN, lambda text: text.replace(b"\n", b"\r\n")), "", ""),
    Case("comments alone", content("# rounds: 1\n"), "", ""),
    Case("empty", content(""), "", ""),
]
VALUES = [
    Case("a decimal comma", content("train: {lr: '0,001'}\n"), r"train.lr: invalid value '0,001'"),
    Case("an exponent without a dot", content("train: {lr: 1e-3}\n"), "", ""),  # text to YAML
    Case("a number with a unit", content("exclude: {max_depth: 100 m}\n"), r"exclude.max_depth: .*'100 m'"),
    Case("percent", content("train: {flip: 50%}\n"), r"train.flip: invalid value '50%'"),
    Case("beyond all floats", content("train: {clip_norm: 1e999}\n"), r"train.clip_norm: invalid value inf"),
    Case(
        "a huge integer",
        content(f"folds: {{count: {10**30}}}\n"),
        r"folds.count: invalid value 10+; .*most 20",
    ),
    Case("a negative number", content("train: {epochs: -1}\n"), r"train.epochs: invalid value -1; .*least 1"),
    Case("sexagesimal", content("folds: {seed: 1:30}\n"), "", ""),  # YAML 1.1 reads 90
    Case("yes", content("predict: {flip: yes}\n"), "", ""),
    Case("maybe", content("predict: {flip: maybe}\n"), r"predict.flip: invalid value 'maybe'"),
    Case("a date", content("run: 2024-01-01\n"), r"run: invalid value datetime.date|run: .*text"),
    Case("nothing", content("train:\n"), r"train: invalid value None|train: .*object"),
    Case("nothing as a number", content("train: {lr: }\n"), r"train.lr: invalid value None"),
    Case("a list for a section", content("train: [lr, 0.1]\n"), r"train: invalid value \['lr', 0.1\]"),
    Case("a text for models", content("models: dla34\n"), r"models: invalid value 'dla34'"),
    Case("models as a list", content("models: [dla34]\n"), r"models: invalid value \['dla34'\]"),
    Case("no model", content("models: {}\n"), r"models: {} should be non-empty"),
    Case(
        "a section of a section", content("train: {predict: {flip: true}}\n"), r"train.predict: unknown key"
    ),
    Case("a key of another section", content("fuse: {lr: 0.1}\n"), r"fuse.lr: unknown key"),
    Case("a key at the top", content("lr: 0.1\n"), r"lr: unknown key"),
    Case("another case", content("Train: {lr: 0.1}\n"), r"Train: unknown key; did you mean train\?"),
    Case("a hyphen", content("train: {batch-size: 4}\n"), r"train.batch-size: unknown key; .* batch_size\?"),
    Case(
        "three numbers of a rectangle", content("cache: {crop: [0, 0.5, 1]}\n"), r"cache.crop: invalid value"
    ),
    Case(
        "five numbers of a rectangle", content("cache: {crop: [0, 0.5, 1, 1, 1]}\n"), r"cache.crop: invalid"
    ),
    Case("a rectangle in pixels", content("cache: {crop: [0, 1480, 3384, 2710]}\n"), r"cache.crop.1: .*1480"),
    Case(
        "a view of two angles", content("predict: {tta_rotations_deg: [[0, 1]]}\n"), r"tta_rotations_deg.0: "
    ),
    Case(
        "a view without brackets",
        content("predict: {tta_rotations_deg: [0, 1, 0]}\n"),
        r"tta_rotations_deg.0",
    ),
    Case("a view in radians of degrees", content("predict: {tta_rotations_deg: [[0, 90, 0]]}\n"), r"most 10"),
    Case(
        "an excluded list",
        content("exclude: {images: [ID_a]}\n"),
        r"exclude.images: invalid value \['ID_a'\]",
    ),
    Case(
        "an exclusion without a reason",
        content("exclude: {images: {ID_a: }}\n"),
        r"exclude.images.ID_a: .*None",
    ),
    Case(
        "an exclusion of blanks",
        content("exclude: {images: {ID_a: ' '}}\n"),
        r"exclude.images.ID_a: .*reason",
    ),
    Case("the folder above as run", content("run: ../other\n"), r"run: invalid value '../other'"),
    Case("HTML as run", content("run: <b>\n"), r"run: invalid value '<b>'"),
    Case("a blank in run", content("run: my run\n"), r"run: invalid value 'my run'"),
    Case("a line end in run", content('run: "a\\nb"\n'), r"run: invalid value 'a\\nb'"),
    Case("a run that ends a line", content('run: "demo\\n"\n'), r"run: invalid value 'demo\\n'"),
    Case(
        "a run to start from that ends a line",
        content('start_from: "demo\\n"\n'),
        r"start_from: invalid value",
    ),
    Case("too many rounds", content("rounds: 10\n"), r"rounds: invalid value 10; it must be at most 9"),
    Case("no round", content("rounds: 0\n"), r"rounds: invalid value 0; it must be at least 1"),
    Case("a round below zero", content("fuse: {rounds: [-1]}\n"), r"fuse.rounds.0: invalid value -1"),
    Case(
        "no timm network", content("models: {a: {backbone: 'timm:'}}\n"), r"models.a.backbone: invalid value"
    ),
    Case(
        "a model called like a path",
        content("models: {../a: {backbone: dla34}}\n"),
        r"models: invalid .*'../a'",
    ),
    Case("a head twice", content("train: {heads: [height, height]}\n"), r"train.heads: invalid value"),
    Case(
        "a loss weight below zero",
        content("train: {loss_weights: {depth: -1}}\n"),
        r"loss_weights.depth: .*-1",
    ),
    Case(
        "odd input", content("train: {input_height: 100}\n"), r"train.input_height: .*100; .*multiple of 32"
    ),
    Case("no cars", content("predict: {max_cars: 0}\n"), r"predict.max_cars: invalid value 0; .*at least 1"),
    Case(
        "no memory", content("resources: {train: {mem_mb: 0}}\n"), r"resources.train.mem_mb: .*at least 100"
    ),
    Case("an unknown stage", content("resources: {fuse: {threads: 2}}\n"), r"resources.fuse: unknown key"),
    Case(
        "weights that are a folder",
        content("train: {pretrained: /}\n"),
        r"train.pretrained: invalid value '/'",
    ),
    Case(
        "a retrain key in train", content("train: {start: warm}\n"), r"train.start: unknown key; write it in"
    ),
]


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / OWN).write_text("# mine\nrounds: 1\n", encoding="utf-8")
    return tmp_path


def load(folder: Path) -> dict:
    """As workflow/rules/common.smk does."""
    file = folder / OWN
    config = laid_over(copy.deepcopy(VALID), read_yaml(file) or {})
    config = parsed(with_models(config, [REPOSITORY / "config.yaml", file], {}))
    check(config)
    return config


@cases(SYNTAX, VALUES)
def test_the_key_or_the_line_is_named(case, folder):
    case.damage(folder)
    if not case.severity:
        load(folder)
        return
    with pytest.raises(UserError) as error:
        load(folder)
    assert re.search(case.message, str(error.value)), str(error.value)
    assert len(str(error.value)) < 700


# Anything at all


SCHEMA = config_schema()
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10**40, "nan", "0x1f", "1e-3", "[", "off", "../..", "\n"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)


def keys_of(schema: dict, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    schema = SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
    names = schema.get("properties", {})
    return [above] * bool(above) + [key for name in names for key in keys_of(names[name], (*above, name))]


KEYS = [*keys_of(SCHEMA), ("models", "dla34"), ("models", "dla34", "lr"), ("models", "new"), ("nothing",)]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(KEYS), ANYTHING)
def test_any_value_of_any_key_is_valid_or_named(key, value):
    """No other exception than UserError, and what is accepted makes training configurations."""
    config = copy.deepcopy(VALID)
    section = config
    for name in key[:-1]:
        section = section.setdefault(name, {})
    section[key[-1]] = value
    try:
        config = parsed(config)
        check(config)
    except UserError as error:
        lines = str(error).splitlines()[1:]
        assert lines and any(key[0] in line or "cache.crop" in line for line in lines)
        return
    for model, settings_ in config["models"].items():
        if settings_ is not None:
            train_configs(config, model)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_text_of_the_command_line_is_read_or_refused(text):
    try:
        refuse_duplicate_keys([text, f"train={text}"])
    except UserError as error:
        assert "--config" in str(error)
