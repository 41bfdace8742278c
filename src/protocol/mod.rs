//! What may precede a connection's own bytes, and what its first bytes tell: pure parsers and writers, without I/O.

pub(crate) mod client_hello;
#[cfg(any(test, fuzzing))]
pub(crate) mod laws;
pub(crate) mod postgres;
pub(crate) mod proxy_header;
mod proxy_v1;
mod proxy_v2;
