"""Commands of `manage.py`: arguments, words and exit codes, thin over `maintenance` and `presentation`."""
