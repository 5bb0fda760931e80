"""The upstream over HTTP: passes admitted requests to OpenAI-compatible services, and their answers back as they are.

``service``           the services, and the service of each model
``asking``            the request that a service gets: the caller's, as it was counted and admitted
``wire``              HTTP/1.1 to services: connections that are kept, one request and its answer at a time
``sending``           chooses the address of a request, its time limits, its retries
``lenient_json``      JSON as services write it
``sse``               the form of event streams
``response_headers``  the headers of a response that reach the caller
``service_errors``    the errors that services send, and the caller's view of them
``cost``              the cost of answers in tokens, as reported or counted
``passing``           answers on their way to callers
``answering``         turns a response into an answer: whole, or still to come
``reasoning_models``  models that are known to produce output that callers don't see
``model_list``        the list of all services' models
``upstream``          the parts put together
"""
