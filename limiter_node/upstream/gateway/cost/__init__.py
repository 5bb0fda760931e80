"""The cost of answers in tokens: what services tell, and what is counted where they tell nothing.

``usage``                  reads what a service's `usage` tells
``output_texts``           counts the texts of an answer that are output
``text_only_events``       recognizes events that differ in their text only, so that only that is read
``account``                the account of a stream: its cost so far, and whether it is whole
``chunk_account``          that of chunks of chats and text completions
``responses_api_account``  that of the Responses API's events
``whole_answer``           the cost of an answer that isn't a stream
"""
