"""Decisions and reservations; knows neither aiohttp nor redis."""
