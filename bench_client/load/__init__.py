"""The requests to send: due times, keys, sizes, models and bytes.

``workload``          the seeded schedule: the due time, target, key, size and model of each request
``sizes``             distributions of token sizes
``trace``             arrivals and sizes from a recorded trace
``weights``           names with weights, as options give them
``key_choice``        the keys that are loaded, by account and team
``keys``              the keys file, and the names of keys in records
``declared_limits``   the limits that a keys file declares, as a run keeps them
``declared_paths``    each key's path: its account, its teams, its own limits
``declared_section``  the limits in one section of a keys file
``prompts``           requests as bytes
"""
