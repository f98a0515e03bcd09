"""Tests with the queues themselves: real workers, which are killed, on a real broker."""
