//! What may precede a connection's own bytes: pure parsers and writers, without I/O.

pub(crate) mod proxy_header;
mod proxy_v1;
mod proxy_v2;
