"""The cost of answers in tokens, as services report it, or as counted if they don't.

``usage``                  reads a service's `usage`
``output_texts``           counts an answer's output texts
``text_only_events``       recognizes events that differ in their text only, to read only that
``account``                the account of a stream: its cost so far, and whether it is whole
``chunk_account``          the account of chunks of chats and text completions
``responses_api_account``  the account of the Responses API's events
``whole_answer``           the cost of an answer that isn't a stream
"""
