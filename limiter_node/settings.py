"""The settings of one node: frozen, validated, each declared once with its default and its help.

The command line builds its options from this declaration: a field added here becomes an option of ``serve`` and ``up``
and an environment variable, and reaches the nodes that ``up`` starts. Neighbours: `commands.options` reads the fields,
`app` obeys them.
"""

from __future__ import annotations

import random
import re
import socket
from dataclasses import dataclass, field
from typing import Any

from limiter_node import logs
from limiter_node.addresses import base_url, check_origins, format_host
from limiter_node.errors import ConfigError
from limiter_node.lengths import parse_length
from limiter_node.limits import BUCKET_MS, WINDOW_MS
from limiter_node.store.url import parse_store_url

_POLICIES = ("local", "closed", "open")
_NODE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")
LISTENING, STORE, CLIENTS, UPSTREAM, MOCK, STOPPING = GROUPS = (
    "Where to listen",
    "Store",
    "Limits on clients",
    "Upstream service",
    "Mock service, used without an upstream",
    "Stopping and logging",
)
"""The headings of ``--help``, in its order."""


def setting(default: Any, group: str, text: str, *, metavar: str = "", hidden: bool = False) -> Any:
    """Return a dataclass field with its option's help, in which `metavar` stands for the value. Names end in units."""
    return field(default=default, metadata={"help": text, "group": group, "metavar": metavar, "hidden": hidden})


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """Hold the settings of one node. Raises ConfigError, in one line, for the first invalid setting."""

    host: str = setting("127.0.0.1", LISTENING, "Address to listen on.", metavar="ADDRESS")
    port: int = setting(8080, LISTENING, "Port to listen on; 0 for any free port.")
    reuse_port: bool = setting(
        False,
        LISTENING,
        "Share the port with other nodes of the same user on this machine; the kernel divides connections among them.",
        metavar="BOOLEAN",
    )
    admin_port: int = setting(
        0, LISTENING, "Separate port for /healthz, /readyz and /metrics, which --port then doesn't serve; 0 for none."
    )
    admin_host: str = setting(
        "", LISTENING, "Address for --admin-port; empty means the address of --host.", metavar="ADDRESS"
    )
    admin_token_file: str = setting(
        "",
        LISTENING,
        "File with the token of the admin API, one line. --admin-port then serves the API, which manages keys and "
        "accounts; empty for no API.",
        metavar="FILE",
    )
    tls_cert: str = setting(
        "",
        LISTENING,
        "PEM file of the certificate chain. --port then speaks HTTPS; --admin-port stays HTTP.",
        metavar="FILE",
    )
    tls_key: str = setting("", LISTENING, "PEM file of the private key for --tls-cert, unencrypted.", metavar="FILE")
    store: str = setting("", STORE, "URL of the store.")
    node_id: str = setting(
        "", LISTENING, "Name of the node in headers, metrics and logs; empty means HOSTNAME-PORT.", metavar="NAME"
    )
    decision_timeout_ms: int = setting(
        100,
        STORE,
        "Time the store has for a decision, in ms. If it takes longer, the node stops asking that shard and "
        "--on-store-failure applies.",
    )
    on_store_failure: str = setting(
        "local",
        STORE,
        "Policy while a key's shard can't be reached: local (the node decides within its share of the limits), "
        "closed (reject with 503) or open (admit).",
        metavar="POLICY",
    )
    replica_acks: int = setting(
        0,
        STORE,
        "Replicas that must hold each decision before it counts, so that a failover loses none. More than halves the "
        "decisions per second of a saturated node.",
    )
    cors_origins: tuple[str, ...] = setting(
        (),
        CLIENTS,
        "Origins whose pages may call this node from a browser, such as https://app.example.com, separated by commas; "
        "* for all, empty for none.",
        metavar="ORIGINS",
    )
    max_body_bytes: int = setting(20_971_520, CLIENTS, "Largest request body, in bytes, after unpacking.")
    max_held_bytes: int = setting(
        268_435_456,
        CLIENTS,
        "Bytes of bodies and long answers that the node holds at once. Requests beyond that get a 503.",
    )
    header_timeout_s: float = setting(10.0, CLIENTS, "Seconds a client has to send the head of a request.")
    body_timeout_s: float = setting(30.0, CLIENTS, "Seconds a client has to send the body of a request.")
    # Clients keep connections for about a minute; if the server closes first, they lose requests.
    keepalive_timeout_s: float = setting(75.0, CLIENTS, "Seconds to keep an idle connection.")
    max_connections: int = setting(
        10_000, CLIENTS, "Connections at once. Further connections get a 503 and are closed."
    )
    max_in_flight: int = setting(
        5_000, CLIENTS, "Requests under way at once, streams included. Further requests get a 503."
    )
    upstream: str = setting(
        "",
        UPSTREAM,
        "Base URL of the OpenAI-compatible service that answers, such as https://HOST/v1. If the service needs a key, "
        "set LIMITER_UPSTREAM_KEY or --upstream-key-file.",
        metavar="URL",
    )
    upstreams: str = setting(
        "", UPSTREAM, "File that maps models to services, instead of --upstream: see docs/gateway.md.", metavar="FILE"
    )
    upstream_key_file: str = setting("", UPSTREAM, "File with the key for --upstream.", metavar="FILE")
    upstream_forward_key: bool = setting(
        False, UPSTREAM, "Send the caller's own key to --upstream instead of the node's.", metavar="BOOLEAN"
    )
    upstream_cap: bool = setting(
        True,
        UPSTREAM,
        "Add the reserved output as the cap of a request that sets none. Otherwise output beyond the reservation is "
        "charged afterwards.",
        metavar="BOOLEAN",
    )
    upstream_connect_timeout_s: float = setting(5.0, UPSTREAM, "Seconds to wait for a connection to the upstream.")
    upstream_read_timeout_s: float = setting(
        300.0,
        UPSTREAM,
        "Seconds the upstream may be silent, before or within its answer. The whole answer may take any time.",
    )
    upstream_keepalive_timeout_s: float = setting(
        4.0,
        UPSTREAM,
        "Seconds to keep an idle connection to the upstream. Set it below the upstream's own idle timeout.",
    )
    read_on_s: float = setting(
        2.0,
        UPSTREAM,
        "Seconds to go on reading an answer whose caller has left, to learn its cost. Then the connection to the "
        "upstream is closed.",
    )
    mock_latency_ms: float = setting(0.0, MOCK, "Milliseconds until the mock's answer, if not streamed.")
    mock_ttft_ms: float = setting(0.0, MOCK, "Milliseconds until the mock's streams begin.")
    mock_tokens_per_s: float = setting(
        0.0, MOCK, "Tokens per second in each choice of the mock's streams; 0 for all at once.", metavar="RATE"
    )
    mock_length: str = setting(
        "lognormal:128:0.7",
        MOCK,
        "Lengths of the mock's answers in tokens: fixed:N, uniform:A:B or lognormal:MEDIAN:SIGMA.",
        metavar="LENGTH",
    )
    mock_tool_rate: float = setting(
        0.0,
        MOCK,
        "Share of requests with optional tools, 0 to 1, that the mock answers with a tool call.",
        metavar="SHARE",
    )
    mock_seed: int = setting(0, MOCK, "Seed of the mock's answer lengths and tool calls.")
    models: tuple[str, ...] = setting(
        ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-3.5-turbo"),
        MOCK,
        "Models that the mock serves, separated by commas.",
        metavar="NAMES",
    )
    log_format: str = setting("text", STOPPING, "Format of the log on stderr: text or json.", metavar="FORMAT")
    log_level: str = setting("info", STOPPING, "Lowest level to log: debug, info, warning or error.", metavar="LEVEL")
    drain_delay_s: float = setting(
        0.0,
        STOPPING,
        "Seconds that a stopping node goes on serving while /readyz says 503, so that load balancers leave first.",
    )
    drain_timeout_s: float = setting(10.0, STOPPING, "Seconds that a stopping node waits for requests under way.")
    window_ms: int = setting(WINDOW_MS, STORE, "Length of the window; shorter windows are for tests.", hidden=True)
    keys_file: str = setting(
        "", STORE, "Keys file whose keys the node declares again if the store loses them.", hidden=True
    )

    def __post_init__(self) -> None:
        if not self.host:
            raise ConfigError("--host must be an address or a host name")
        for option, host in (("--host", self.host), ("--admin-host", self.admin_host)):
            if any(c.isspace() or not c.isprintable() for c in host):
                raise ConfigError(f"{option} must be an address or a host name")
        _between("--port", self.port, 0, 65_535)
        _between("--admin-port", self.admin_port, 0, 65_535)
        if self.admin_port and self.admin_port == self.port:
            raise ConfigError("--admin-port must differ from --port")
        if self.admin_host and not self.admin_port:
            raise ConfigError("--admin-host needs --admin-port")
        if self.admin_token_file and not self.admin_port:
            raise ConfigError("--admin-token-file needs --admin-port")
        if bool(self.tls_cert) is not bool(self.tls_key):
            raise ConfigError("--tls-cert and --tls-key need each other: give both or neither")
        parse_store_url(self.store)
        if not self.node_id:
            host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()) or "node"
            object.__setattr__(self, "node_id", f"{host[:58]}-{self.port}")
        if not _NODE_ID.match(self.node_id):
            raise ConfigError("--node-id must be 1 to 64 letters, digits or the characters . _ : -")
        _between("--decision-timeout-ms", self.decision_timeout_ms, 1, 60_000)
        if self.on_store_failure not in _POLICIES:
            raise ConfigError(f"--on-store-failure must be one of {', '.join(_POLICIES)}")
        _between("--replica-acks", self.replica_acks, 0, 5)
        check_origins(self.cors_origins)
        _between("--max-body-bytes", self.max_body_bytes, 1_024, 100 * 1_048_576)
        # Room for one largest body and for the eighth that is reserved for small ones (`limiter_node.held`).
        _between("--max-held-bytes", self.max_held_bytes, 2 * self.max_body_bytes, 1 << 40)
        _between("--header-timeout", self.header_timeout_s, 0.1, 3_600)
        _between("--body-timeout", self.body_timeout_s, 0.1, 3_600)
        _between("--keepalive-timeout", self.keepalive_timeout_s, 0.1, 3_600)
        _between("--max-connections", self.max_connections, 1, 1_000_000)
        _between("--max-in-flight", self.max_in_flight, 1, 1_000_000)
        if self.upstream:
            base_url(self.upstream)
            if self.upstreams:
                raise ConfigError("--upstream and --upstreams exclude each other: give one of them")
        elif self.upstream_key_file or self.upstream_forward_key:
            raise ConfigError("--upstream-key-file and --upstream-forward-key need --upstream")
        _between("--upstream-connect-timeout", self.upstream_connect_timeout_s, 0.05, 3_600)
        _between("--upstream-read-timeout", self.upstream_read_timeout_s, 0.05, 86_400)
        _between("--upstream-keepalive-timeout", self.upstream_keepalive_timeout_s, 0.1, 3_600)
        _between("--read-on", self.read_on_s, 0, 3_600)
        _between("--mock-latency-ms", self.mock_latency_ms, 0, 600_000)
        _between("--mock-ttft-ms", self.mock_ttft_ms, 0, 600_000)
        _between("--mock-tokens-per-s", self.mock_tokens_per_s, 0, 1_000_000)
        _between("--mock-tool-rate", self.mock_tool_rate, 0, 1)
        try:
            parse_length(self.mock_length, random.Random(0))
        except ConfigError as error:
            raise ConfigError(f"--mock-length {error}") from None
        _check_models(self.models)
        logs.check(self.log_format, self.log_level)
        _between("--drain-delay", self.drain_delay_s, 0, 3_600)
        _between("--drain-timeout", self.drain_timeout_s, 0, 3_600)
        _between("--window-ms", self.window_ms, BUCKET_MS, WINDOW_MS)
        if self.window_ms % BUCKET_MS:
            raise ConfigError(f"--window-ms must be a multiple of {BUCKET_MS}")

    @property
    def base_url(self) -> str:
        """Return the URL at which callers reach the node, without a path."""
        return f"{'https' if self.tls_cert else 'http'}://{format_host(self.host)}:{self.port}"

    @property
    def admin_url(self) -> str:
        """Return the URL of the admin port; "" if there is none."""
        return f"http://{format_host(self.admin_host or self.host)}:{self.admin_port}" if self.admin_port else ""


def _between(option: str, value: float, low: float, high: float) -> None:
    # Written so that NaN fails, too.
    if not low <= value <= high:
        raise ConfigError(f"{option} must be from {low} to {high}")


def _check_models(models: tuple[str, ...]) -> None:
    if not models or not all(model and model.isprintable() and " " not in model for model in models):
        raise ConfigError("--models must be names separated by commas")
    if len(set(models)) < len(models):
        raise ConfigError("--models names a model twice: name each once")
