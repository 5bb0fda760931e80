"""The mock: a model that makes answers of exact length and asked-for form, without understanding anything."""
