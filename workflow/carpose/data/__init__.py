"""From photos to batches: image cache, folds, augmentation, samples, loader."""
