"""What is decided, as functions of values. Imports no Django."""
