"""Measurements and their reports: neither tests nor product."""
