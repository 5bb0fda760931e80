"""Renders requests to bytes. Prompts are slices of one text in which nearly every word is one token.

A request is joined when it is sent, from parts rendered before the run: by target, by key, by model, by output size,
and a slice of the text. Memory is the sum of these parts, not their product. A join costs 0.6 µs of about 13 µs per
request; rendering all requests before the run would save that and cost 330 bytes or more per request.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate
from random import Random

import orjson

from bench_client.load.workload import Workload

CHAT_OVERHEAD_TOKENS = 7
"""Tokens of a chat of one message beside its text: 3 per message, 1 for the role, 3 to prime the answer."""

STARTS = 64
"""Places in the text where prompts begin, so that prompts of one size differ."""

# Each of these is one token of o200k_base with a space before it; a test checks that.
_WORD_LIST = (
    "time year people way day man thing woman life child world school state family student group country problem "
    "hand part place case week company system program question work government number night point home water room "
    "mother area money story fact month lot right study book eye job word business issue side kind head house "
    "service friend father power hour game line end member law car city community name president team minute idea "
    "body information back parent face others level office door health person art war history party result change "
    "morning reason research girl guy moment air teacher force education foot boy age policy music market sense "
    "nation plan college interest death course someone experience language garden river paper window table summer "
    "winter letter church station forest island doctor nature animal science machine engine picture village "
    "bridge "
)
WORDS = tuple(dict.fromkeys(_WORD_LIST.split()))


class RequestRenderer:
    """Render any request of one workload."""

    __slots__ = ("_auths", "_heads", "_offsets", "_prefix", "_prefixes", "_suffixes", "_text", "_workload")

    def __init__(
        self,
        workload: Workload,
        *,
        request_heads: Sequence[bytes],
        secrets: Sequence[str],
        models: Sequence[str],
        cap_output: bool,
    ) -> None:
        """``request_heads``: per target, the request line and the Host header, each with its line end."""
        self._workload = workload
        self._heads = list(request_heads)
        self._auths = [
            b"Authorization: Bearer %b\r\nContent-Type: application/json\r\nContent-Length: " % secret.encode()
            for secret in secrets
        ]
        self._prefixes = [b'{"model":%b,"messages":[{"role":"user","content":"' % orjson.dumps(each) for each in models]
        self._prefix = b"" if workload.model else self._prefixes[0]  # where there is one model, nothing is looked up
        self._suffixes = {
            tokens: b'"}],"max_tokens":%d}' % tokens if cap_output else b'"}]}'
            for tokens in set(workload.output_tokens)
        }
        self._text, self._offsets = _text(max(workload.input_tokens, default=1) + STARTS)

    def render(self, index: int) -> bytes:
        """Return the whole request, head and body."""
        workload, offsets = self._workload, self._offsets
        prefix = self._prefix or self._prefixes[workload.model[index]]
        start = index % STARTS
        words = max(workload.input_tokens[index] - CHAT_OVERHEAD_TOKENS, 1)
        prompt = self._text[offsets[start] : offsets[start + words]]
        suffix = self._suffixes[workload.output_tokens[index]]
        length = len(prefix) + len(prompt) + len(suffix)
        return b"".join(
            (
                self._heads[workload.target[index]],
                self._auths[workload.key[index]],
                b"%d\r\n\r\n" % length,
                prefix,
                prompt,
                suffix,
            )
        )


def _text(words: int) -> tuple[bytes, array[int]]:
    """Return a text of ``words`` words, each after a space, and where each begins (and the last one ends)."""
    chosen = [b" " + word.encode() for word in Random(0).choices(WORDS, k=words)]
    return b"".join(chosen), array("q", accumulate(map(len, chosen), initial=0))
