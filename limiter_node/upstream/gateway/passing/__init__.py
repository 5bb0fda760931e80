"""Answers on their way to callers: passed on in the turn in which they come, and understood on the way.

``event_reader``  cuts a stream into events, and tells an account what they say
``answer``        an answer that passes, of any kind: its beginning, its end, a caller that reads slowly or leaves
``stream``        an event stream
``whole_body``    an answer that isn't a stream, too long to be held until its end
"""
