"""From photos to batches: picture cache, folds, augmentation, samples, loader."""
