"""A randomized judge: dispatchers on a real store, random faults, and a verdict from the judge's own records.

``python -m tests.judge --seconds 60 --seed 1`` drives one short run after the other, each drawn wholly from its seed.

`records` says what is written down, `bounds` what a window may hold, `windows`, `counted` and `told` judge a record,
`node`, `proxy`, `traffic` and `faults` make one, `scenarios` draws a run and `run` carries it out.
"""
