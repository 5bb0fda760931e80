"""Answers on their way to callers: passed on in the turn of the event loop in which they come, and read on the way.

``event_reader``  cuts a stream into events, and gives their content to an account
``answer``        a passing answer of any kind: its beginning, its end, a caller that reads slowly or leaves
``stream``        an event stream
``whole_body``    an answer that isn't a stream, too long to be held until its end
"""
