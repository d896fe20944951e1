"""Judges vectors: metrics, intervals, classifiers, scores of clips."""
