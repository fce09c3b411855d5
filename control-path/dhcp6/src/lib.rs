//! DHCPv6 link-layer address assignment (RFC 8947, RFC 8948): codec, server, client.
