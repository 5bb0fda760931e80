"""The requests to send: due times, keys, sizes and bytes.

``workload``  the seeded schedule: the due time, target, key and size of each request
``sizes``     distributions of token sizes
``trace``     arrivals and sizes from a recorded trace
``keys``      the keys file, and the names of keys in records
``declared_limits``  the limits that the keys file declares, by key
``prompts``   requests as bytes
"""
