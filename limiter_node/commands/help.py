"""How ``--help`` reads: its width, and the examples below each command's options."""

from __future__ import annotations

import cloup

_HEADING = cloup.Style(bold=True)

CONTEXT_SETTINGS = cloup.Context.settings(
    help_option_names=["-h", "--help"],
    show_default=True,
    formatter_settings=cloup.HelpFormatter.settings(
        max_width=100, col1_max_width=28, theme=cloup.HelpTheme(heading=_HEADING)
    ),
)
"""Settings of the group, which its commands inherit. Lines of more than 100 columns would be hard to follow."""


def _examples(text: str) -> str:
    """Return the examples under a heading, with a blank line between them."""
    blocks = [f"\b\n{block}" for block in text.strip("\n").split("\n\n")]
    return "\n\n".join([_HEADING("Examples:"), *blocks])


EXAMPLES = {
    "": _examples("""
  # two nodes, a store and a demo key, to try it out
  limiter-node up

  # one node of a fleet
  limiter-node serve --store redis+cluster://10.0.0.1:7000,10.0.0.2:7000

  # the usage of keys, and the state of nodes and store
  limiter-node top --store redis+cluster://10.0.0.1:7000 \\
      --target http://10.0.0.11:8080 --target http://10.0.0.12:8080
"""),
    "up": _examples("""
  # two nodes on 8080 and 8081, an embedded cluster, a demo key
  limiter-node up

  # four nodes on a store of your own, with your keys
  limiter-node up --nodes 4 --keys keys.toml --store redis://127.0.0.1:6379

  # in front of a model served on this machine, for example by vLLM or Ollama
  limiter-node up --keys keys.toml --upstream http://127.0.0.1:8000/v1

  # four nodes on one port; their probes and metrics on 9090 to 9093
  limiter-node up --nodes 4 --shared-port --admin-port 9090

  # answers as slow as a model's
  limiter-node up --mock-ttft-ms 300 --mock-tokens-per-s 50
"""),
    "serve": _examples("""
  # a node that load balancers can reach
  limiter-node serve --host 0.0.0.0 \\
      --store redis+cluster://10.0.0.1:7000,10.0.0.2:7000 \\
      --keys /etc/limiter/keys.toml --log-format json

  # HTTPS for callers; probes and metrics on a port of their own
  limiter-node serve --host 0.0.0.0 --port 8443 --admin-port 9090 \\
      --tls-cert /etc/limiter/cert.pem --tls-key /etc/limiter/key.pem \\
      --store redis://10.0.0.1:6379

  # with the password out of the process list
  LIMITER_STORE=rediss://limiter:PASSWORD@store:6379 limiter-node serve
"""),
    "store": _examples("""
  # three masters on 7000 to 7002, each with a replica, and a node
  limiter-node store --replicas 1
  limiter-node serve --store redis+cluster://127.0.0.1:7000
"""),
    "keys": _examples("""
  # a thousand keys for a test
  limiter-node keys generate --count 1000 --rpm 600 --out keys.toml
  limiter-node keys load keys.toml --store redis://127.0.0.1:6379

  # a higher limit for one key, from its next request on
  limiter-node keys set sk-alice --rpm 1200 --store redis://127.0.0.1:6379
"""),
    "top": _examples("""
  # nodes, shards and the hottest keys, live
  limiter-node top --store redis://127.0.0.1:6379 \\
      --target http://127.0.0.1:8080 --target http://127.0.0.1:8081

  # the thirty keys nearest to their limits, once, as text
  limiter-node top --store redis://127.0.0.1:6379 --keys 30 --once
"""),
}
"""By command; the empty name is the group's."""
