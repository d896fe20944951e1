"""What benchmarks share: timing, music, and PyTorch's side."""
