"""Measurements behind the figures of docs/measurements.md; `make bench` runs them all. Never part of the tests."""
