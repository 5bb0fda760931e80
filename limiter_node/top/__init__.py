"""``limiter-node top``: nodes and store sampled, made into frames, drawn on a terminal or written as lines.

``view``      the command as a whole: chooses sources and output
``loop``      reads, makes a frame, shows it, waits
``polling``   the nodes' ``/metrics``, fetched (the store is read by `limiter_node.store.admin.watch`)
``sample``    one node's metrics as plain numbers
``rates``     rates between two samples
``frame``     the content of the view, as plain values
``terminal``  a frame on a terminal
``screen``    a frame as lines of a given size: ``summary``, ``servers`` and ``keys`` are its sections
``table``     lines of a table; ``cells``: numbers in it
``lines``     a frame as plain lines, for files and pipes
"""
