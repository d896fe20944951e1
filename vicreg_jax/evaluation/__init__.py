"""What a vector is worth: metrics, intervals, classifiers, scores of clips."""
