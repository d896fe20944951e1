"""Audio in, views out: decoding, data sets, augmentation, input pipeline."""
