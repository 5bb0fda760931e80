"""A node of the distributed rate limiter: HTTP → parse and count → admit → upstream → settle → response."""
