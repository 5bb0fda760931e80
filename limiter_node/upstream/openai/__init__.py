"""OpenAI's formats: bodies and event streams, made from answers as data (`limiter_node.upstream.source`)."""
