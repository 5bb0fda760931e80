"""The upstream over HTTP: passes admitted requests to OpenAI-compatible services, and their answers back as they are.

``service``    which services there are, and which model goes where; ``patterns`` of models' names
``rotation``   which of a service's addresses is asked next, and which are left alone for a while
``drafting``   what is made of a request before it is admitted
``outgoing``   what a service is sent: the caller's body, with the cap it was admitted for
``disguise``   bodies that a service might read in another way than we did
``steering``   fields that make a service do other work than was counted
``dialing``    making connections; ``connection``: one of them; ``pool``: those that are kept; ``turns``: for those that
               bring much at once
``exchange``   one request and its answer, as far as HTTP goes
``sending``    which address is asked, within which time, how often
``answering``  a service's response as an answer, whole or still to come, or as the error that it is
``passing``    an answer on its way to the caller; ``passing_body``: one that isn't a stream; ``wakeup``: waiting for it
``incoming``   what of a response's headers and errors reaches the caller
``said``       errors that come with status 200, and what is no answer
``events``     event streams while they pass; ``sse``: their form; ``plain``: events that differ in their text only
``accounts``   what a stream has cost so far, and whether it is whole
``whole``      the same for answers that aren't streams
``usage``      what a service tells of the cost; ``texts``: what is counted where it tells nothing
``lenient``    JSON as services write it
``upstream``   all of it together
"""
