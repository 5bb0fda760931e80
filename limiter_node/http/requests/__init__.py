"""Parsers of the limited requests: each takes a body and returns a checked request, with its tokens and its need.

``limited_routes``  the routes, as data
``chat``            ``/v1/chat/completions``; ``messages``: the checks of its messages
``completions``     ``/v1/completions``
``responses_api``   ``/v1/responses``; ``responses_api_items``: its input as messages
``embeddings``      ``/v1/embeddings``
``tools``           tools, tool choices and formats of answers, of chats and of the Responses API
``inputs``          texts or tokens, one or many: the input of completions and embeddings
``known_fields``    the known fields, and the rule that counts unknown ones as input
``fields``          checks of single fields, and the error that they raise
``json_body``       a body as JSON, bounded in size and depth
``reader``          a request of any size read without holding up the event loop; ``reader_process``: the second
                    process, for the largest; ``reader_frames``: what passes between the two
"""
