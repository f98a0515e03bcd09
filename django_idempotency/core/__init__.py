"""
Values and pure functions: no Django, no clock, no network, so that tests of them need no server.

Read `keys` (from a header to an `Identity` and its `Attempt`), `policy` (the table of options), `fingerprint`,
`record` (the stored outcome as bytes), `decision` (what to do with an attempt, and with a handler's answer), and
`operator_answer` (an answer that an operator writes).
"""
