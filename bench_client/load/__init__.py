"""What is sent: which request is due when, with which key and of which size, and its bytes.

``workload``  the seeded schedule: the due time, target, key and size of each request
``sizes``     distributions of token sizes
``trace``     arrivals and sizes from a recorded trace
``keys``      the keys file, and how records name a key
``prompts``   requests as bytes
"""
