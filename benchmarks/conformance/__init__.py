"""The conformance kit against servers that others wrote: `make conformance`."""
