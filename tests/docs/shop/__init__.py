"""The reader's own app, as the pages name it: what their examples import."""
