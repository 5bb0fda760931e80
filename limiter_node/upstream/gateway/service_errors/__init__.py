"""The errors that services send, and the caller's view of them.

``openai_shape``    puts an error into OpenAI's shape, without our key in it
``error_finding``   finds the error in an answer of status 200, and the status that it states
``in_band``         turns an error of status 200 into the error to raise
``error_response``  turns a response of another status into the error to raise
"""
