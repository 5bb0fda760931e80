"""The body of the response of ``POST /v1/embeddings``, as bytes."""

from __future__ import annotations

import orjson

from limiter_node.upstream.requests import EmbeddingRequest
from limiter_node.upstream.source import Embeddings


def embedding_list(request: EmbeddingRequest, embeddings: Embeddings) -> bytes:
    """Return a list of `embedding` objects; the vectors come rendered."""
    data = [b'{"object":"embedding","index":%d,"embedding":%b}' % each for each in enumerate(embeddings.vectors)]
    return b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (
        b",".join(data),
        orjson.dumps(request.model),
        request.input_tokens,
        request.input_tokens,
    )
