"""A week of the API's life, made up: what the admin's pages and the manual's pictures show."""
