"""A made-up week of traffic, which the admin's pages and the manual's pictures show."""
