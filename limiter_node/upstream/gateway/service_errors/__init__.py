"""The errors that services send, and what callers are told of them.

``openai_shape``    puts an error into OpenAI's shape, without our key in it
``error_finding``   finds the error in an answer of status 200, and the status that it says
``in_band``         an error of status 200 as the error to raise
``error_response``  a response of another status as the error to raise
"""
