"""Proves or refutes, from a run's records alone, that the limiter kept its accounting rules.

``units``            the units of limits, and what a request counts of each
``paths``            the windows that requests count in, and the path of each request
``announced``        which limits a response announces, and what is left of them
``outcomes``         what one record proves: an admission, a rejection, or usage that may have been counted
``timeline``         sorts the records by path; ``window_timeline`` puts together all that happened in one window
``windows``          check 1: no true window holds more than its limit
``bounds``           how much of a limit could, and how much must, have been in use at a decision; ``carry_in`` says how
                     much was in use before the run
``decisions``        check 2: every rejection was justified, and no admission came before an overrun was paid off;
                     check 3: the announced counters are possible ones
``responses``        check 4: each response is consistent in itself
``retries``          check 5: retry-after is neither too short nor too long, as far as that can be known from outside
``audited``          check 6: the audited limits that would have rejected are named, and no others
``completeness``     whether all records are there: if not, nothing is proved
``judge``            runs all checks over a directory, one window at a time; ``report`` holds the result, ``findings``
                     the violations, ``limit_use`` how full each limit of the tree was

A plain key's minute and a window of the tree are judged alike: as a window with limits on some units, admissions,
rejections and possible usage. A request is in all windows on its path, so a rejected one is missed in none of their
counters, and a retry time has to suit all of their limits.

Limiters under test may have a shorter window for plain keys; its length is a parameter, ``window_ms``.

Assumptions: only this run used the keys while it went on, and an admitted request's reservation is settled within a
second of its response. Usage before the run is inferred from each key's first decision. A decided response that is
neither a success nor a rejection means that its request was admitted and failed at the service behind the limiter: the
request counts, its tokens are given back. If a service reports more tokens than were admitted and reserved (an
overrun), the settle charges the excess without admitting it: it is counted apart, and can justify rejections. Requests
with an unknown outcome may have been admitted: they can justify a rejection, and are never held against the limiter.
"""

from bench_client.audit.judge import audit_directory
from bench_client.audit.report import AuditReport

__all__ = ["AuditReport", "audit_directory"]
