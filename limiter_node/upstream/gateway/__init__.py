"""The upstream over HTTP: passes admitted requests to OpenAI-compatible services, and their answers back as they are.

``service``    which services there are, and which model goes where
``rotation``   which of a service's addresses is asked next, and which are left alone for a while
``outgoing``   what a service is sent: the caller's body, with the cap it was admitted for
``disguise``   bodies that a service might read in another way than we did
``incoming``   what of a service's answer reaches the caller
``usage``      what an answer costs
``events``     the same for event streams, while they pass
``answers``    a service's response as an answer, whole or as a stream
``pool``       connections that are kept
``sending``    which address is asked, within which time, how often
``upstream``   all of it together
"""
