//! What may precede a connection's own bytes, and what its first bytes tell: pure parsers and writers, without I/O.

pub mod client_hello;
#[cfg(any(test, feature = "laws"))]
pub mod laws;
pub mod postgres;
pub mod proxy_header;
mod proxy_v1;
mod proxy_v2;
