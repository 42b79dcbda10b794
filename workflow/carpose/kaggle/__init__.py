"""The competition's files; the only place where PredictionString exists.

Nothing is imported here, so that the workflow can ask for `identity` before it plans without waiting.
"""
