"""A small payment API, as one would write it at work, whose POSTs take effect once."""
