"""What a service is asked: the caller's request, as it was counted and admitted.

``steering``          refuses fields that make a service do other work than was counted
``disguise``          refuses or finds bodies that a service might read in another way than we did
``admitted_request``  what is kept of a request to read its answer: its outline, and what was reserved
``outgoing_body``     the caller's body, with the cap that it was admitted for
``outgoing_headers``  the few headers that a service is sent
``drafting``          makes drafts of requests before they are admitted
"""
