"""What protection costs, as ratios against the same bare view: `python -m benchmarks`."""
