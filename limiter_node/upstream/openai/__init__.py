"""OpenAI's formats: bodies and event streams, made from answers as data (`limiter_node.upstream.source`).

``error``                 the error object
``chat``                  the body of a chat completion
``completions``           the body of a text completion
``embeddings``            the body of embeddings
``responses_api``         the `response` object of the Responses API
``stream_events``         the interface of renderers of streamed answers
``chunks``                streamed chat and text completions
``responses_api_events``  streamed answers of the Responses API
``offered_tools``         the tools that an answer may call
``request_kinds``         the renderers of each kind of request
"""
