"""Attacks on real nodes, and what they cost others: see `attacks` for the list, `bounds` for the rules."""
