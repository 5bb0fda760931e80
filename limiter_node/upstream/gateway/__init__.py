"""The upstream over HTTP: passes admitted requests to OpenAI-compatible services, and their answers back as they are.

``service``           which services there are, and which model goes to which of them
``model_patterns``    patterns of models' names
``asking``            what a service is asked: the caller's request, as it was counted and admitted
``wire``              HTTP/1.1 to services: connections that are kept, one request and its answer at a time
``sending``           to which address a request is sent, within which time, how often
``lenient_json``      JSON as services write it
``sse``               the form of event streams
``response_headers``  which headers of a response reach the caller
``service_errors``    the errors that services send, and what callers are told of them
``cost``              the cost of answers in tokens, told or counted
``passing``           answers on their way to callers
``answering``         a response as an answer: whole, or still to come
``reasoning_models``  models that are known to produce output that nobody is shown
``model_list``        the list of models that all services have
``upstream``          all of it together
"""
