"""A notice board: Flask, one SQLite file, no login."""
