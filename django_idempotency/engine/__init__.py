"""One execution, from claim to COMMIT. Knows no HTTP; the only room that opens a transaction."""
