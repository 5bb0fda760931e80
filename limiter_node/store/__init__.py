"""Everything that speaks to the shared store; the only importer of redis."""
