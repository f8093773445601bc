"""Days of real clients, servers and proxies, played bare and guarded side by side with the default policy.

environment.py    servers, proxies, and the clock of a play
clients.py        who calls: no breaker, this one, its peers; and how they call
play.py           one play of a scenario, and what came of it
healthy_days.py   what happens every day to services that are well
outages.py        services that are not
proxies.py        what a proxy says in a service's name
applications.py   what applications do to their calls
day.py            all of them, as a table: `make day`
"""
