"""The mock: a model that makes answers of exact length and of the form asked for, without understanding anything.

``text``       pseudo-prose of an exact number of tokens
``schema``     makes JSON that fits a simple schema
``form``       puts the prose into the form that a request asks for
``stream``     cuts an answer into pieces that come in a real service's rhythm
``embedding``  unit vectors
``model``      the model itself
"""
