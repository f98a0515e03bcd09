"""
One execution, from claim to COMMIT. It knows no HTTP, and is the only room that opens a transaction.

The path of a request: `protection.views` picks policy and adapter; `adapters` reads an `Attempt`; `run` looks for a
record, then opens the transaction (`transactional`, `transactions`); `stores` claims; `core.decision.decide` decides;
the handler runs (`execution`), observed by `watch`, and the adapter captures its response; `core.decision.settle` says
what is stored; `stores` completes; COMMIT; `announcements` reports; the adapter answers. Outside the databases `leased`
replaces the transaction by a lease, which `renewal` renews and `endings` ends late; `phased` splits it into
`phases`. Read `run` first.
"""
