"""`{% load idempotency %}`."""
