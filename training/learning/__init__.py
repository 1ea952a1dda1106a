"""How a network learns: batches, augmentation, pace, checkpoints, several workers."""
