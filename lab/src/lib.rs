//! Hosts and networks in network namespaces, for the demo, the tests and the benchmarks.
