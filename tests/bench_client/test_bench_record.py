"""What is read out of responses, and the files of a run: round trips, truncated and foreign ones."""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import orjson
import pytest
from bench_fakes import KEY, Ledger, run_info

from bench_client.errors import BenchError, cannot_write
from bench_client.load.declared_limits import DeclaredLimit, DeclaredTree, KeyPath
from bench_client.load.workload import Workload
from bench_client.records.process_report import ProcessReport
from bench_client.records.record import Record
from bench_client.records.record_file import HEADER, REQUESTS_NAME, RecordReader, write_records
from bench_client.records.response_fields import NOTHING, parse_response
from bench_client.records.run_directory import (
    RUN_NAME,
    convert_spool,
    finish,
    open_records,
    prepare,
    read_info,
    write_info,
)
from bench_client.records.spool import OK, SPOOL_NAMES, TIMEOUT, SpoolWriter, read_spool, spool_name

ADMITTED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Limiter-Node: Node-1\r\n"
    b"x-limiter-time-ms: 1700000000123\r\nx-ratelimit-limit-requests: 60\r\n"
    b"x-ratelimit-limit-input-tokens: 1000\r\nx-ratelimit-limit-output-tokens: 500\r\n"
    b"x-ratelimit-remaining-requests: 59\r\nx-ratelimit-remaining-input-tokens: 975\r\n"
    b"x-ratelimit-remaining-output-tokens: 400\r\nx-limiter-reserved-output:100\r\nx-request-id: 5\r\n\r\n"
    b'{"choices":[],"usage":{"prompt_tokens":25,"completion_tokens":17}}'
)
REJECTED = (
    b"HTTP/1.1 429 Too Many Requests\r\nx-limiter-exceeded: input_tokens\r\n"
    b"retry-after-ms: 3890\r\nretry-after: 4\r\n\r\n"
    b'{"error":{"message":"Rate limit reached for Limit Requested 5 on input tokens per min (input TPM): Limit 30000, '
    b'Used 28039, Requested 3906. Please try again in 3.89s.","code":"rate_limit_exceeded"}}'
)


def test_the_facts_of_an_admission() -> None:
    facts = parse_response(ADMITTED)
    assert facts._asdict() == {
        **NOTHING._asdict(),
        "status": 200,
        "node": "Node-1",
        "time_ms": 1_700_000_000_123,
        "limit_requests": 60,
        "limit_input": 1000,
        "limit_output": 500,
        "remaining_requests": 59,
        "remaining_input": 975,
        "remaining_output": 400,
        "reserved_output": 100,
        "prompt_tokens": 25,
        "completion_tokens": 17,
        "told_input": 25,
        "told_input_at_most": 25,
    }


def test_what_was_charged_is_known_from_headers_where_a_service_counts_otherwise() -> None:
    charged = b"x-limiter-input-tokens: 22\r\nX-Limiter-Output-Tokens: 34\r\n\r\n"
    facts = parse_response(ADMITTED.replace(b"\r\n\r\n", b"\r\n" + charged))
    assert (facts.prompt_tokens, facts.completion_tokens) == (22, 34)
    assert facts._replace(prompt_tokens=25, completion_tokens=17) == parse_response(ADMITTED)
    untold = b"HTTP/1.1 200 OK\r\n" + charged + b'{"choices":[]}'
    assert parse_response(untold)[:1] + parse_response(untold)[12:14] == (200, 22, 34)


def test_the_facts_of_a_rejection() -> None:
    facts = parse_response(REJECTED)
    assert (facts.status, facts.exceeded, facts.retry_after_ms) == (429, "input_tokens", 3890)
    assert (facts.requested, facts.never_fits) == (3906, False)
    never = b'HTTP/1.1 429 X\r\n\r\n{"error":{"message":"Request too large for k on x: Limit 50, Requested 3906."}}'
    assert parse_response(never) == NOTHING._replace(status=429, requested=3906, never_fits=True)


def test_an_upstreams_rejection_says_whose_it_is_and_its_message_is_none_of_ours() -> None:
    theirs = (
        b"HTTP/1.1 429 Too Many Requests\r\nx-limiter-time-ms: 5\r\nX-Limiter-Upstream-Status: 429\r\n"
        b"x-ratelimit-limit-requests: 3\r\n\r\n"
        b'{"error":{"message":"Request too large for gpt-x: Limit 50, Requested 3906."}}'
    )
    facts = parse_response(theirs)
    assert facts == NOTHING._replace(status=429, time_ms=5, upstream_status=429, limit_requests=3)
    failed = parse_response(b"HTTP/1.1 502 X\r\nx-limiter-upstream-status: 500\r\n\r\n{}")
    assert failed == NOTHING._replace(status=502, upstream_status=500)


@pytest.mark.parametrize(
    ("usage", "at_most"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}, 10),
        ({"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 5013}, 5010),
        ({"prompt_tokens": 10, "completion_tokens": 3, "cache_read_input_tokens": 40}, 50),
        ({"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 40}}, 50),
        ({"prompt_tokens": 10, "completion_tokens": 3, "cache_creation": {"5m": 4, "1h": 5}}, 19),
        ({"input_tokens": 10, "output_tokens": 3, "total_tokens": 13}, 10),
        ({"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 2**60}, 2**31 - 3),
        ({"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": "13", "cache_creation_input_tokens": -4}, 10),
    ],
)
def test_input_that_a_service_tells_apart_may_be_meant_too(usage: dict[str, object], at_most: int) -> None:
    facts = parse_response(b"HTTP/1.1 200 OK\r\n\r\n" + orjson.dumps({"usage": usage}))
    assert (facts.told_input, facts.told_input_at_most) == (10, at_most)


@pytest.mark.parametrize("odd", [b"NaN", b"-Infinity", b'"\\ud800"', b'"\xe2\x82"'])
def test_a_usage_is_read_beside_what_is_no_json_to_the_letter(odd: bytes) -> None:
    usage = b'{"prompt_tokens":10,"completion_tokens":3}'
    facts = parse_response(b'HTTP/1.1 200 OK\r\n\r\n{"choices":[%b],"usage":%b}' % (odd, usage))
    assert (facts.told_input, facts.completion_tokens) == (10, 3)


def test_reasoning_that_only_the_total_tells_is_output() -> None:
    """Unless cached input explains it, or the limiter says what it has charged."""
    usage: dict[str, object] = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 513}
    answer = b"\r\n\r\n" + orjson.dumps({"usage": usage})
    assert parse_response(b"HTTP/1.1 200 OK" + answer).completion_tokens == 503
    assert parse_response(b"HTTP/1.1 200 OK\r\nx-limiter-output-tokens: 7" + answer).completion_tokens == 7
    cached = b"\r\n\r\n" + orjson.dumps({"usage": {**usage, "prompt_tokens_details": {"cached_tokens": 500}}})
    assert parse_response(b"HTTP/1.1 200 OK" + cached).completion_tokens == 3


def test_a_long_answer_is_read_without_a_header_that_tells_its_output() -> None:
    """Its head is sent before its end is known. Chunks of 64 KiB; one pass over them."""
    head, _, body = ADMITTED.partition(b"\r\n\r\n")
    body = b'{"embedding":"' + b"A" * (20 << 20) + b'",' + body[1:]
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(body[i : i + 65_536]), body[i : i + 65_536]) for i in range(0, len(body), 65_536)
    )
    facts = parse_response(head + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    assert facts == parse_response(ADMITTED)


def test_chunked_bodies_are_joined() -> None:
    head, _, body = ADMITTED.partition(b"\r\n\r\n")
    chunks = b"%x\r\n%b\r\n%x;x=y\r\n%b\r\n0\r\n\r\n" % (10, body[:10], len(body) - 10, body[10:])
    facts = parse_response(head + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    assert (facts.prompt_tokens, facts.completion_tokens) == (25, 17)


@pytest.mark.parametrize("length", range(0, len(ADMITTED), 7))
def test_a_response_cut_off_anywhere_is_read_as_far_as_it_goes(length: int) -> None:
    facts = parse_response(ADMITTED[:length])
    whole = parse_response(ADMITTED)
    assert all(got in (None, full) for got, full in zip(facts, whole, strict=True))
    assert (facts.status is None) == (b"\r\n\r\n" not in ADMITTED[:length])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"usage":5}',
        b'{"usage":{"prompt_tokens":-1,"completion_tokens":true}}',
        b"\xff",
        b"[" * 99_999,
    ],
)
def test_odd_bodies_tell_nothing(body: bytes) -> None:
    facts = parse_response(b"HTTP/1.1 200 OK\r\nx-limiter-time-ms: soon\r\n\r\n" + body)
    assert facts == NOTHING._replace(status=200)


def test_a_negative_counter_is_not_lost_on_the_way_to_the_audit() -> None:
    facts = parse_response(b"HTTP/1.1 200 OK\r\nx-ratelimit-remaining-requests: -5\r\n\r\n{}")
    assert facts.remaining_requests == -5


@pytest.fixture
def records(ledger: Ledger) -> list[Record]:
    ledger.admit(0)
    ledger.reject(10, 1, requested=2000)
    ledger.lose(20)
    ledger.fail(30, upstream_status=500)
    return ledger.records


def test_records_survive_the_round_trip(tmp_path: Path, records: list[Record]) -> None:
    path = tmp_path / REQUESTS_NAME
    assert write_records(path, records) == 4
    reader = RecordReader(path)
    assert list(reader) == records
    assert reader.problem is None
    assert orjson.loads(path.read_bytes().splitlines()[0])["columns"] == list(Record._fields)


def test_the_end_is_the_digest_of_all_lines_before_it(tmp_path: Path, records: list[Record]) -> None:
    path = tmp_path / REQUESTS_NAME
    write_records(path, records)
    *lines, end = path.read_bytes().splitlines(keepends=True)
    assert orjson.loads(end) == {"end": {"records": 4, "sha256": sha256(b"".join(lines)).hexdigest()}}


def test_a_file_cut_off_anywhere_loses_what_is_behind_only(tmp_path: Path, records: list[Record]) -> None:
    path = tmp_path / REQUESTS_NAME
    write_records(path, records)
    whole = path.read_bytes()
    for size in range(len(orjson.dumps(HEADER)) + 1, len(whole)):
        path.write_bytes(whole[:size])
        reader = RecordReader(path)
        rows = whole[:size].count(b"]\n") + whole[:size].endswith(b"]")
        assert list(reader) == records[:rows], size
        assert reader.problem is not None, size
        assert "cut off" in reader.problem, size


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: [*lines[:2], *lines[3:]], "has 3 records, but its end says 4"),
        (lambda lines: [*lines[:2], *lines[1:]], "has 5 records, but its end says 4"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "its digest differs from the one at its end"),
        (lambda lines: [*lines, lines[1]], "goes on after its end"),
        (lambda lines: [*lines, *lines], "goes on after its end"),
        (lambda lines: lines[:-1], "has no end after line 5"),
        (lambda lines: [*lines[:-1], b'{"end":{"records":true}}\n'], "end of requests.jsonl is damaged"),
    ],
)
def test_a_file_that_lost_or_gained_a_line_says_so(
    tmp_path: Path, records: list[Record], change: Callable[[list[bytes]], list[bytes]], says: str
) -> None:
    path = tmp_path / REQUESTS_NAME
    write_records(path, records)
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    reader = RecordReader(path)
    list(reader)
    assert says in str(reader.problem)


def test_files_from_before_a_column_was_added_are_read(tmp_path: Path, records: list[Record]) -> None:
    path = tmp_path / REQUESTS_NAME
    write_records(path, records)
    header, *rows, _ = (orjson.loads(line) for line in path.read_bytes().splitlines())
    added = [header["columns"].pop() for _ in range(9)]
    assert added[:5] == ["states", "policies", "audited", "limit", "model"]
    assert added[5:] == ["has_other_limits", "told_input_at_most", "told_input", "upstream_status"]
    old = [header, *(row[:-9] for row in rows)]
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in old))
    assert list(RecordReader(path)) == [record._replace(**dict.fromkeys(added)) for record in records]
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in (header, *rows)))
    with pytest.raises(BenchError, match="line 2 is damaged"):
        list(RecordReader(path))
    header["columns"].pop()
    path.write_bytes(orjson.dumps(header) + b"\n")
    with pytest.raises(BenchError, match="another version"):
        list(RecordReader(path))


@pytest.mark.parametrize("content", [b"", b"hello\n", b'{"format":"other"}\n', b"\x00" * 100])
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / REQUESTS_NAME
    path.write_bytes(content)
    with pytest.raises(BenchError, match="not a file of bench-client's records"):
        list(RecordReader(path))


def test_damage_in_the_middle_is_told_with_its_line(tmp_path: Path, records: list[Record]) -> None:
    path = tmp_path / REQUESTS_NAME
    write_records(path, records)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"[1,2]\n", *lines[3:]]))
    with pytest.raises(BenchError, match="line 3 is damaged"):
        list(RecordReader(path))


def spool(directory: Path, process: int = 0, processes: int = 1, *, raw: bytes = ADMITTED) -> None:
    zeros = array("I", [0, 0])
    due_ns = array("q", [1_000_000, 2_000_000])
    workload = Workload(due_ns, zeros, zeros, array("I", [25, 26]), array("I", [9, 8]), 1.0)
    writer = SpoolWriter(directory, workload, cap_output=True, process=process, processes=processes)
    start_ns = 5_000_000_000
    writer.put(start_ns, [(1, start_ns + 2_500_999, start_ns + 9_000_000, OK, raw)])
    writer.put(start_ns, [(0, -1, start_ns + 9_900_000, TIMEOUT, b"")])
    writer.close()


def test_a_killed_run_is_read_from_its_spool(tmp_path: Path) -> None:
    info = run_info(finished=False, dispatched=0)
    prepare(tmp_path, info)
    spool(tmp_path)
    admitted, lost = open_records(tmp_path, info)
    assert (admitted.request, admitted.due_us, admitted.sent_us, admitted.done_us) == (1, 2000, 2500, 9000)
    assert (admitted.key, admitted.status, admitted.max_tokens, admitted.completion_tokens) == (KEY, 200, 8, 17)
    assert (lost.request, lost.sent_us, lost.error, lost.status) == (0, None, "timeout", None)
    assert not list(tmp_path.glob(SPOOL_NAMES))
    assert len(list(open_records(tmp_path, info))) == 2


def test_a_killed_run_is_read_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A directory in the place of a file keeps root from writing, too. What is there stays as it is."""
    info = run_info(finished=False)
    prepare(tmp_path, info)
    spool(tmp_path, 0, 2)
    spool(tmp_path, 1, 2)
    convert_spool(tmp_path, 1, [KEY], ["m"])
    (tmp_path / "requests.0.part").mkdir()
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()}
    reader = open_records(tmp_path, info)
    assert sorted(record.request for record in reader) == [0, 1, 2, 3]
    assert reader.problem is None
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()} == before
    elsewhere = reader.path.parent
    assert elsewhere.exists()
    del reader
    assert not elsewhere.exists()


def test_the_records_of_several_processes_are_one_runs(tmp_path: Path) -> None:
    """Whether each process made its part itself or left its spool behind, killed."""
    info = run_info()
    prepare(tmp_path, info)
    for process in range(3):
        spool(tmp_path, process, 3)
    convert_spool(tmp_path, 1, [KEY], ["m"])
    finish(tmp_path, info)
    assert [path.name for path in tmp_path.glob("re*")] == [REQUESTS_NAME]
    reader = open_records(tmp_path, info)
    records = list(reader)
    assert reader.problem is None
    assert sorted(record.request for record in records) == [0, 1, 2, 3, 4, 5]
    assert {record.request: record.status for record in records if record.request % 3 == 1} == {1: None, 4: 200}


def test_parts_left_by_a_run_killed_at_its_end_are_put_together(tmp_path: Path) -> None:
    info = run_info(finished=False)
    prepare(tmp_path, info)
    for process in range(2):
        spool(tmp_path, process, 2)
        convert_spool(tmp_path, process, [KEY], ["m"])
    assert sorted(record.request for record in open_records(tmp_path, info)) == [0, 1, 2, 3]


@pytest.mark.parametrize("cut", [2, 100, 150, 220])
def test_a_part_that_is_cut_off_leaves_whole_records_without_an_end(tmp_path: Path, cut: int) -> None:
    info = run_info(finished=False)
    prepare(tmp_path, info)
    for process in range(2):
        spool(tmp_path, process, 2)
        convert_spool(tmp_path, process, [KEY], ["m"])
    part = tmp_path / "requests.0.part"
    part.write_bytes(part.read_bytes()[:-cut])
    reader = open_records(tmp_path, info)
    requests = {record.request for record in reader}
    assert {1, 3} <= requests < {0, 1, 2, 3, 4}
    assert "has no end" in str(reader.problem)


def test_a_spool_cut_off_loses_its_last_entry_only(tmp_path: Path) -> None:
    spool(tmp_path)
    path = tmp_path / spool_name(0)
    for cut in (1, 40, 60):
        path.write_bytes(path.read_bytes()[:-cut])
        assert [entry.request for entry in read_spool(path)] in ([1], [])


def test_run_info_survives_the_round_trip_and_an_earlier_runs_files_go(tmp_path: Path) -> None:
    for name in (REQUESTS_NAME, "audit.json", "mine.txt", spool_name(0), spool_name(11), "requests.3.part"):
        (tmp_path / name).write_text("old")
    prepare(tmp_path, run_info(finished=False))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", RUN_NAME]
    info = run_info(warmup=3, warmup_s=0.5, processes=[ProcessReport(10, 0.5, 0.1, 0.2, 3)])
    write_info(tmp_path, info)
    assert read_info(tmp_path) == info


TREE = DeclaredTree(
    (
        DeclaredLimit("acme", "tokens", 60_000, (), 2_000_000, "enforce", ""),
        DeclaredLimit("acme/alice", "requests", 3_600_000, ("gpt-5*", "o3*"), 60, "audit", "big, models"),
    ),
    {KEY: KeyPath("acme", "research/vision", "own", (0, 1)), "ba9876543210": KeyPath("", "", "path", ())},
    ("acme: in_flight",),
)


def test_the_tree_of_limits_survives_the_round_trip(tmp_path: Path) -> None:
    info = run_info(tree=TREE)
    write_info(tmp_path, info)
    assert read_info(tmp_path) == info
    document = orjson.loads((tmp_path / RUN_NAME).read_bytes())
    del document["tree"]
    (tmp_path / RUN_NAME).write_bytes(orjson.dumps(document))
    assert read_info(tmp_path).tree == DeclaredTree()  # of an earlier version


@pytest.mark.parametrize(
    "damage",
    [
        {"limits": None},
        {"keys": []},
        {"unknown": [1]},
        {"limits": TREE.as_dict()["limits"][:1]},  # type: ignore[index]
        {"limits": [["acme", "money", 60_000, [], 5, "enforce", ""]] * 2},
        {"limits": [["acme", "tokens", "1m", [], 5, "enforce", ""]] * 2},
        {"limits": [["acme", "tokens", 60_000, [], True, "enforce", ""]] * 2},
        {"limits": [["acme", "tokens", 60_000, [], 5, "never", ""]] * 2},
        {"limits": [["acme", "tokens", 60_000, [None], 5, "enforce", ""]] * 2},
        {"limits": [["acme", "tokens", 60_000, [], 5]] * 2},
        {"keys": {KEY: ["acme", "", "path", [-1]]}},
        {"keys": {KEY: ["acme", "", "nothing", [0]]}},
        {"keys": {KEY: [1, "", "path", [0]]}},
    ],
)
def test_a_damaged_tree_is_refused_in_one_line(tmp_path: Path, damage: dict[str, object]) -> None:
    write_info(tmp_path, run_info(tree=TREE))
    document = orjson.loads((tmp_path / RUN_NAME).read_bytes())
    (tmp_path / RUN_NAME).write_bytes(orjson.dumps({**document, "tree": {**document["tree"], **damage}}))
    with pytest.raises(BenchError, match=r"run\.json is damaged"):
        read_info(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format":"x"}', '{"format":"bench-client run 1","machine":1}'])
def test_foreign_run_files_are_refused_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / RUN_NAME).write_text(content)
    with pytest.raises(BenchError, match=RUN_NAME) as caught:
        read_info(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "cannot write a: No space left on device; free some space"),
        (errno.EDQUOT, "cannot write a: Disk quota exceeded; free some space"),
        (errno.EACCES, "cannot write a: Permission denied"),
    ],
)
def test_only_a_full_disk_is_to_be_freed(number: int, message: str) -> None:
    assert str(cannot_write("a", OSError(number, os.strerror(number)))) == message


POLICIES = b'RateLimit-Policy: "rpm";q=60;w=60, "input-tpm";q=1000;w=60, "output-tpm";q=500;w=60'
OTHER_POLICY = b'RateLimit-Policy: "acme/research requests/1d";q=1000;w=86400'


@pytest.mark.parametrize(
    ("head", "has_other_limits"),
    [
        (b"x-limiter-time-ms: 5\r\n" + POLICIES, False),
        (b'x-limiter-time-ms: 5\r\nratelimit-policy: "output-tpm";q=1, "rpm";q=2, "input-tpm";q=3', False),
        (b"x-limiter-time-ms: 5\r\nx-ratelimit-limit-requests: 60", False),
        (b"x-limiter-time-ms: 5\r\n" + POLICIES + b', "alice tokens/1m";q=5;w=60', True),
        (b"x-limiter-time-ms: 5\r\n" + OTHER_POLICY, True),
        (b'x-limiter-time-ms: 5\r\nRateLimit-Policy: "rpm";q=60;w=60', True),
        (b'x-limiter-time-ms: 5\r\nRateLimit-Policy: "alice requests/1m";q=60;w=60', True),
        (b"x-limiter-time-ms: 5", True),
        (b"x-limiter-time-ms: 5\r\nx-ratelimit-limit-requests: null", True),
        (POLICIES, False),
        (OTHER_POLICY, False),
        (b"x-request-id: 1", False),
    ],
)
@pytest.mark.parametrize("status", [200, 429, 502])
def test_other_limits_than_the_usual_three_are_noticed(head: bytes, has_other_limits: bool, status: int) -> None:
    facts = parse_response(b"HTTP/1.1 %d X\r\n%b\r\n\r\n{}" % (status, head))
    assert facts.has_other_limits is has_other_limits


PATH_LINES = (
    b'RateLimit-Policy: "acme requests/1h";q=9;w=3600, "acme/alice requests/1s";q=5;w=1\r\n'
    b'ratelimit: "acme requests/1h";r=0;t=3599, "acme/alice requests/1s";r=5;t=0\r\n'
    b"x-limiter-audit: big models, acme/research tokens/1d\r\n"
)


def test_a_path_is_recorded_as_it_was_announced() -> None:
    head = b"HTTP/1.1 429 X\r\nx-limiter-time-ms: 5\r\n" + PATH_LINES + b"x-limiter-limit: acme%22 requests/1h\r\n"
    assert parse_response(head + b"\r\n{}") == NOTHING._replace(
        status=429,
        time_ms=5,
        has_other_limits=True,
        limit="acme%22 requests/1h",
        audited="big models, acme/research tokens/1d",
        policies='"acme requests/1h";q=9;w=3600, "acme/alice requests/1s";q=5;w=1',
        states='"acme requests/1h";r=0;t=3599, "acme/alice requests/1s";r=5;t=0',
    )


def test_the_usual_three_are_recorded_as_numbers_only() -> None:
    states = b'RateLimit: "rpm";r=0;t=1, "input-tpm";r=1;t=1, "output-tpm";r=1;t=1'
    head = b"HTTP/1.1 429 X\r\nx-limiter-time-ms: 5\r\n%b\r\n%b\r\nx-limiter-limit: alice requests/1m\r\n\r\n{}"
    facts = parse_response(head % (POLICIES, states))
    assert facts == NOTHING._replace(status=429, time_ms=5, limit="alice requests/1m")


def test_records_have_the_facts_in_their_places(tmp_path: Path) -> None:
    raw = b"HTTP/1.1 200 OK\r\nx-limiter-time-ms: 5\r\n" + PATH_LINES + b"\r\n{}"
    info = run_info(finished=False)
    prepare(tmp_path, info)
    spool(tmp_path, raw=raw)
    record = next(iter(open_records(tmp_path, info)))._asdict()
    facts = parse_response(raw)._asdict()
    assert {name: record[name] for name in facts} == facts
    assert record["model"] is None


def test_a_services_429_says_nothing_about_a_keys_limits() -> None:
    head = b"HTTP/1.1 429 X\r\nx-limiter-upstream-status: 429\r\nx-limiter-time-ms: 5\r\n" + OTHER_POLICY
    assert not parse_response(head + b"\r\n\r\n{}").has_other_limits


@pytest.mark.parametrize("told", [b"", b"x-ratelimit-limit-requests: null\r\nx-ratelimit-remaining-requests:\r\n"])
def test_limits_that_are_not_there_are_recorded_as_such(told: bytes) -> None:
    facts = parse_response(b"HTTP/1.1 200 OK\r\nx-limiter-time-ms: 5\r\n" + told + b"\r\n{}")
    assert facts == NOTHING._replace(status=200, time_ms=5, has_other_limits=True)


def test_the_message_of_a_limit_on_a_path_has_its_numbers() -> None:
    message = (
        "Rate limit reached for acme/alice on requests per 1d of acme/research: Limit 1000, Used 1000, Requested 1. "
        "Please try again in 12m3.4s."
    )
    raw = b"HTTP/1.1 429 X\r\n\r\n" + orjson.dumps({"error": {"message": message}})
    assert parse_response(raw) == NOTHING._replace(status=429, requested=1)
    hidden = "Rate limit reached for alice on tokens of its account: Requested 30. Please try again in 12m3.4s."
    raw = b"HTTP/1.1 429 X\r\n\r\n" + orjson.dumps({"error": {"message": hidden}})
    assert parse_response(raw) == NOTHING._replace(status=429, requested=30)
