"""Measurements behind the figures of REPORT.md; `make bench` runs them all. Never part of the tests."""
