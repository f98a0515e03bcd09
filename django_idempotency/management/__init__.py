"""Commands of `manage.py`: arguments, output and exit codes, thin over `operations`."""
