"""Accounts and what moves money between them."""
