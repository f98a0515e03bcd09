"""A small payment API, as in a real project, whose POSTs take effect once."""
