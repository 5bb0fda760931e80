"""Counts by account and by model, for runs that have several of them."""

from __future__ import annotations

from bench_client.records.record import Record
from bench_client.records.run_directory import RunInfo
from bench_client.results.counts import Counts

NO_ACCOUNT = "(no account)"


class Groups:
    """Count requests by account and by model, in the order of the keys file and of ``--models``.

    Where all keys have the same account, or none, nothing is counted by account; nor by model where there is one.
    """

    def __init__(self, info: RunInfo) -> None:
        paths = info.tree.keys
        names = {key: (paths[key].account if key in paths else "") or NO_ACCOUNT for key, _ in info.keys}
        self.accounts = {name: Counts() for name in dict.fromkeys(names.values())}
        if len(self.accounts) < 2:
            self.accounts = {}
        models = info.settings.get("models")
        self.models = {name: Counts() for name in models} if isinstance(models, dict) and len(models) > 1 else {}
        self._by_key = {key: self.accounts[name] for key, name in names.items()} if self.accounts else {}

    def add(self, record: Record) -> None:
        """Count a request."""
        if self._by_key and (of_account := self._by_key.get(record.key)) is not None:
            of_account.count(record)
        if record.model is not None and (of_model := self.models.get(record.model)) is not None:
            of_model.count(record)
