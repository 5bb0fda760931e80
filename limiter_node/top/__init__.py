"""``limiter-node top``: nodes and store sampled, made into frames, drawn on a terminal or written as lines.

``view``      the command as a whole: what is watched, and how it is shown
``loop``      reads, makes a frame, shows it, waits
``polling``   the nodes' ``/metrics``, fetched (the store is read by `limiter_node.store.admin.watch`)
``sample``    one node's metrics as plain numbers
``rates``     what happened between two samples
``frame``     what is drawn, as plain values
``terminal``  a frame on a terminal
``screen``    a frame as lines of a given size: ``summary``, ``servers`` and ``keys`` are its sections
``table``     lines of a table; ``cells``: numbers in it
``lines``     a frame as plain lines, for files and pipes
"""
