//! TLS on connections that Pointsman itself opens to servers.

use std::path::PathBuf;

use super::super::check;
use super::super::keys::{Useless, settings};
use super::super::kind::optional;
use super::super::scalar::{flag, path};
use super::super::value::server_name;

settings! {
    /// TLS on the connections of a check, or of a source that a server has (`tls`).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct ClientTls: Default, needs ("anyOf", &["ca_file", "verify"]), useless ClientTls::useless,
        check check::client_tls
    {
        /// The file with the certificates, in PEM, of the authorities that may have issued the server's certificate.
        /// Needed unless `verify` is false. This file and the other two are read for each connection, so that new ones
        /// need no reload.
        ca_file: Option<PathBuf> => optional(path()), absent None, example "/etc/pointsman/ca.pem";
        /// The name that the server's certificate must contain, and that is sent to the server (SNI). Absent: the host
        /// of its URL, or for a backend, the certificate must contain its address, and no name is sent; for a Unix
        /// socket, `localhost`.
        name: Option<String> => optional(server_name()), absent None, example "db.example.com";
        /// The file with the certificate, in PEM, that is shown to a server that asks for one, followed by those of the
        /// authorities between it and the server's. Absent: none is shown.
        cert_file: Option<PathBuf> => optional(path()), absent None, example "/etc/pointsman/client.pem",
            with "key_file";
        /// The file with the private key, in PEM, that belongs to it.
        key_file: Option<PathBuf> => optional(path()), absent None, example "/etc/pointsman/client.key",
            with "cert_file";
        /// Whether the server's certificate is verified. If not, any server at the address passes, and receives the
        /// password or token.
        verify: bool => flag(), default true;
    }
}

impl ClientTls {
    /// Why a key has no effect.
    fn useless(&self, key: &str) -> Useless {
        let why = || ("verify", "certificates are not verified".to_owned());
        (key == "ca_file" && !self.verify).then(why)
    }
}
