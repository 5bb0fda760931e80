"""OpenAI's formats: bodies and event streams, made from answers as data (`limiter_node.upstream.source`).

``error``                 the error object
``chat``                  the body of a chat completion
``completions``           the body of a text completion
``embeddings``            the body of embeddings
``responses_api``         the `response` object of the Responses API
``stream_events``         what every renderer of streamed answers can do
``chunks``                streamed chat and text completions
``responses_api_events``  streamed answers of the Responses API
``offered_tools``         the tools that a request leaves its answer free to call
``request_kinds``         which of these answers which kind of request
"""
