"""One HTML page, and figures for documents, from what runs have left in their directories.

``sources``  which runs: directories checked and labelled
``collect``  one pass over a run's records: rates and latencies over time, use per key, the summary
``windows``  how full a few windows were at each moment, against their limits; ``choosing`` says which,
             ``shown_limits`` what counts in them
``audit_figures``, ``loads``   what the audit and ``servers.json`` say
``gather``   all of that about one run
``figures``  draws it; ``canvas`` is the only importer of matplotlib, ``axes`` and ``theme`` have scales and colours
``svg``      makes the drawings fit for a page, and for files of their own
``words``, ``verdict``, ``rows``, ``limit_table``, ``provenance``   what is said, in plain text
``page``, ``style``   the HTML and its style sheet
``write``    puts pages and figures into files

Nothing in the result depends on the time or the place of its making: same runs, same bytes.
"""

from bench_client.report.write import Written, report_of_comparison, write_report

__all__ = ["Written", "report_of_comparison", "write_report"]
