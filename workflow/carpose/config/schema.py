"""The JSON schema of the configuration, made from the sections' keys."""

from .keys import END, object_schema, properties, section_schema
from .sections import SECTIONS, Hardware, Run
from .train_config import TrainConfig

NAME = f"^[A-Za-z0-9_-]+{END}"


def config_schema() -> dict:
    """JSON Schema, draft 2020-12. Unknown keys are errors."""
    train = {**properties(TrainConfig, retrain_only=False), **properties(Hardware)}
    retrain = {"$ref": "#/$defs/retrain"}
    models = {
        "type": "object",
        "description": "models by name, each with its keys that differ from `train:`; null removes a model",
        "minProperties": 1,
        "propertyNames": {"pattern": NAME, "description": "names of letters, digits, _ and -"},
        "additionalProperties": {
            "anyOf": [{"type": "null"}, {"$ref": "#/$defs/model"}],
            "description": "keys of a training, such as {backbone: dla34, width: 0.25}, or null to remove it",
        },
    }
    top = {
        **properties(Run),
        **{name: section_schema(section) for name, section in SECTIONS.items()},
        "train": object_schema(train, "The training configuration of all models."),
        "retrain": retrain,
        "models": models,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **object_schema(top, "The configuration of carpose, made by `python -m carpose.config`."),
        "required": list(top),
        "$defs": {
            "retrain": object_schema(
                properties(TrainConfig), "Keys that differ in the trainings of rounds 1, 2 …"
            ),
            "model": object_schema(
                {**train, "retrain": retrain}, "Keys of one model that differ from `train:`."
            ),
        },
    }
