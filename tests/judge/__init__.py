"""A randomized judge: dispatchers on a real store, random faults, and a verdict from the judge's own records.

``python -m tests.judge --seconds 60 --seed 1`` drives one short run after the other, each drawn wholly from its seed.

`records` says what is written down, and `policies` what an account is; `bounds` says what a window may hold. `ledgers`
takes a record apart by window; `windows`, `own_share`, `counted`, `told` and `told_paths` judge it, with `times`.
`node`, `proxy`, `store`, `account_store`, `traffic`, `drawing`, `sharing` and the modules of faults make a record.
`scenarios` draws a run, `run` carries it out, and `at_rest` asks when nothing else happens.

``python -m tests.judge.moves`` does the same for keys that move between accounts, by rules of its own: see `moves`.
``python -m tests.judge.states`` does so for credentials and states of keys: see `states`.
`seeds` is the command of both.
"""
