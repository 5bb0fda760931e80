"""The request that a service gets: the caller's, as it was counted and admitted.

``steering``          refuses fields that make a service do other work than was counted
``disguise``          finds bodies that a service might read in another way than we did, and refuses some
``admitted_request``  the part of a request that reading its answer needs: an outline, and the reservation
``outgoing_body``     the caller's body, with the cap that it was admitted for
``outgoing_headers``  the few headers that a service gets
``drafting``          makes drafts of requests before they are admitted
"""
