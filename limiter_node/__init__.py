"""Exact, distributed rate limiter for LLM APIs: the nodes, the store's side of them, and the command line.

docs/architecture.md draws the rooms and walks a request through them; ``tests/test_architecture.py`` says who may
import whom.

From the command line to a running node:

``cli``             the command line, and the exit code and error line of a failure; ``__main__`` runs it
``commands``        the commands, one module each
``management``      keys, accounts and teams as people manage them: found, changed, shown
``supervisor``      node processes: started together, restarted, drained
``top``             the live view of nodes, shards and keys
``node_process``    the process of one node: signals, open files, memory
``app``             one node: started, run, drained and stopped; the one module that knows everybody
``start``           from listening to ready

What an operator writes:

``settings``        the settings of a node, each declared once
``keysfile``        the keys file: read, validated, made; ``tomllines``: the line of a mistake in it
``declarations``    what a keys file declares, ready to be stored
``upstreamsfile``   the services behind a gateway, from settings or a file

The path of a request:

``http``            requests in, responses out
``tokens``          counts the tokens of texts, chats, tool definitions
``limiter``         decisions, reservations, and policies for when the store is away
``store``           everything that speaks to the shared store
``upstream``        the source of answers: services over HTTP, or the mock

The ground, which imports nothing but the ground:

``decisions``       a request's need, its decision, its key's usage
``limits``          a plain key's limits, and the window in which they hold
``policy``          the limits of accounts, teams and their keys, as they are stored
``policy_body``     the stored form of policies
``limit_names``     the name of a limit as a field; ``policy_fields``: policies as fields, and back
``window_merging``  which windows go on counting when a policy changes
``declaration_merging``  a stored item and a declared one, made one: who wins
``declaration_records``  the record of the declarations that were applied to an item
``changes``         a change of an account, a team or a key, in words and as JSON
``key_states``      the credentials of a key, and whether one is good
``plans``           the windows that one request touches, by the policies on its key's path
``model_patterns``  patterns of models' names
``credentials``     the API key in a request's headers, and its digest
``errors``          the errors that a caller or an operator may meet
``telemetry``       a node's counts about itself
``held``            the budget of bytes that a node holds for its callers
``second_process``  a second process of a node, for work that would hold up its event loop
``processes``       child processes that end with their parent, and free ports
``addresses``       hosts, base URLs and origins, as options write them
``lengths``         distributions of the mock's answer lengths
``logs``            one line per event, as text or JSON
``reasons``         the reason why something could not be reached, in a few words
``chart``           bars and columns of characters
``malloc``          makes the allocator give memory back
"""
