"""The same payment view under other packages, and what a crash, a race and a stranger do to it: `make bench-rivals`."""
