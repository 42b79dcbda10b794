"""Pictures of trainings, scores and predictions."""
