"""OpenAI's HTTP interface: reading requests, writing responses, headers and errors. The only part that speaks HTTP."""
