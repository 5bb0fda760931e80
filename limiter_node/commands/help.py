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
    "apply": _examples("""
  # what would change, then the change
  limiter-node apply keys.toml --dry-run --store redis://127.0.0.1:6379
  limiter-node apply keys.toml --store redis://127.0.0.1:6379

  # also delete what is no longer in the file, without being asked
  limiter-node apply keys.toml --prune --yes --store redis://127.0.0.1:6379
"""),
    "keys": _examples("""
  # the store of all commands that follow
  export LIMITER_STORE=redis://127.0.0.1:6379

  # a key of an account, and its secret in a variable
  KEY=$(limiter-node keys create acme/alice --rpm 60)

  # what it has left, and a higher limit from its next request on
  limiter-node keys show acme/alice
  limiter-node keys set acme/alice --rpm 120

  # whose secret is this?
  echo "$KEY" | limiter-node keys show -
"""),
    "keys create": _examples("""
  # a key of a team, with limits per day and for some models
  limiter-node keys create acme/alice --team research --rpm 60 \\
      --limit 'input_tokens=1_000_000/1d' \\
      --limit 'output_tokens=5000/1m for o3*,gpt-5* as "big models"' \\
      --store redis://127.0.0.1:6379

  # a key without an account, which ends by itself
  limiter-node keys create ci --expires 2027-06-30T00:00:00Z \\
      --store redis://127.0.0.1:6379
"""),
    "keys set": _examples("""
  # another number per minute; no limit per day any more
  limiter-node keys set acme/alice --rpm 120 \\
      --limit 'input_tokens=none/1d' --store redis://127.0.0.1:6379

  # a limit that only reports what it would reject
  limiter-node keys set acme/alice --limit 'requests=10/1s audit' \\
      --store redis://127.0.0.1:6379
"""),
    "keys generate": _examples("""
  # a thousand keys, the last hundred in an account with two teams
  limiter-node keys generate --count 1000 --rpm 600 \\
      --account acme --account-keys 100 --account-limit requests=20_000/1h \\
      --team research --team sales --team-limit requests=50/1s
"""),
    "keys load": _examples("""
  # a thousand keys for a test
  limiter-node keys generate --count 1000 --rpm 600 --out keys.toml
  limiter-node keys load keys.toml --store redis://127.0.0.1:6379
"""),
    "keys move": _examples("""
  # to another account, into one of its teams
  limiter-node keys move acme/alice globex --team research \\
      --store redis://127.0.0.1:6379

  # to another team of its account
  limiter-node keys move acme/alice acme --team sales \\
      --store redis://127.0.0.1:6379
"""),
    "keys rotate": _examples("""
  # a new secret in a variable; the old one stays valid for a day
  export LIMITER_STORE=redis://127.0.0.1:6379
  KEY=$(limiter-node keys rotate acme/alice --grace 24h)
"""),
    "accounts": _examples("""
  # an account, and what its keys have if they say nothing themselves
  limiter-node accounts create acme --rpm 5000 \\
      --limit 'requests=50_000/1d' --key-default rpm=120 \\
      --store redis://127.0.0.1:6379

  # what it has left
  limiter-node accounts show acme --store redis://127.0.0.1:6379
"""),
    "teams": _examples("""
  # a team, and one below it
  export LIMITER_STORE=redis://127.0.0.1:6379
  limiter-node teams create acme/research --rpm 1000
  limiter-node teams create acme/research/vision
"""),
    "limits": _examples("""
  # why is alice rejected?
  limiter-node limits show acme/alice --model gpt-4o \\
      --store redis://127.0.0.1:6379
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
