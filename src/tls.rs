//! TLS on connections to servers (RFC 8446, RFC 5246): encrypts them, and verifies the server's certificate (RFC 5280).

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, DigitallySignedStruct, InvalidMessage, RootCertStore,
    SignatureScheme,
};

use crate::config::ClientTls;
use crate::domain::SocketAddress;
use crate::text_file::contents;

/// The longest file of certificates, in bytes: four times that of all public authorities.
const LONGEST_FILE: u64 = 1 << 20;

/// The name of a server at a Unix socket, unless the settings have one.
pub const LOCALHOST: &str = "localhost";

/// Why a connection could not be encrypted.
#[derive(Debug)]
pub enum TlsError {
    /// A local error, such as a missing file, which is no evidence against the server.
    Local(String),
    /// The handshake with the server failed.
    Handshake(String),
}

/// The client's side of TLS, for the connections to one server.
#[derive(Debug)]
pub struct TlsClient {
    settings: ClientTls,
    /// What the certificate of the server must contain.
    name: ServerName<'static>,
    /// Built for the last connection; the files seldom change.
    last: Mutex<Option<(Files, Arc<ClientConfig>)>>,
}

/// The contents of the files of the settings.
#[derive(Default, PartialEq, Eq)]
struct Files {
    authorities: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

impl fmt::Debug for Files {
    /// Without the private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Files")
    }
}

impl TlsClient {
    /// For the connections to the server at `address`.
    pub fn new(settings: ClientTls, address: &SocketAddress) -> Self {
        let name = settings.name.clone().or_else(|| address.tcp().is_none().then(|| LOCALHOST.to_owned()));
        let name = name.and_then(|name| ServerName::try_from(name).ok());
        let ip = address.ip().unwrap_or(Ipv4Addr::LOCALHOST.into());
        let name = name.unwrap_or_else(|| ip.into());
        Self { settings, name, last: Mutex::default() }
    }

    /// Encrypts a connection to the server.
    pub async fn handshake<S>(&self, stream: S) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.config().await.map_err(TlsError::Local)?;
        let connected = TlsConnector::from(config).connect(self.name.clone(), stream).await;
        connected.map_err(|error| TlsError::Handshake(self.explain(&error)))
    }

    /// The configuration, from the files as they are now.
    pub async fn config(&self) -> Result<Arc<ClientConfig>, String> {
        let read = async |what, file: &Option<PathBuf>| match file {
            Some(file) => contents(what, file, LONGEST_FILE).await.map(Some),
            None => Ok(None),
        };
        let ClientTls { ca_file, cert_file, key_file, .. } = &self.settings;
        let files = Files {
            authorities: read("ca_file", ca_file).await?,
            certificate: read("cert_file", cert_file).await?,
            key: read("key_file", key_file).await?,
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, config)) = &*last
            && *of == files
        {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(config(&self.settings, &files)?);
        *last = Some((files, Arc::clone(&config)));
        Ok(config)
    }

    /// An error of the handshake, with what to do about it.
    fn explain(&self, error: &io::Error) -> String {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        let advice = match cause {
            Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
                "the server does not speak TLS at this port".to_owned()
            }
            Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                format!(
                    "no authority in {} has issued its certificate",
                    shown(self.settings.ca_file.as_deref())
                )
            }
            _ if error.kind() == io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
            _ => return error.to_string(),
        };
        format!("{advice} ({error})")
    }
}

fn shown(file: Option<&Path>) -> String {
    file.map_or_else(String::new, |file| file.display().to_string())
}

/// The configuration of a client; the error names the file that is wrong.
fn config(settings: &ClientTls, files: &Files) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = if settings.verify {
        let file = format!("ca_file {}", shown(settings.ca_file.as_deref()));
        let mut roots = RootCertStore::empty();
        for authority in certificates(files.authorities.as_deref().unwrap_or_default(), &file)? {
            roots
                .add(authority)
                .map_err(|error| format!("the {file} has an unusable certificate: {error}"))?;
        }
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| format!("the {file}: {error}"))?
    } else {
        Arc::new(AnyServer(Arc::clone(&provider)))
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            let cert_file = format!("cert_file {}", shown(settings.cert_file.as_deref()));
            let key_file = shown(settings.key_file.as_deref());
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
                .map_err(|error| format!("the key_file {key_file} has no private key: {error}"))?;
            builder
                .with_client_auth_cert(certificates(certificate, &cert_file)?, key)
                .map_err(|error| format!("the {cert_file} and the key_file {key_file} do not fit: {error}"))?
        }
        _ => builder.with_no_client_auth(),
    };
    // Each connection verifies the certificate.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The certificates of a file; there must be one.
fn certificates(text: &str, file: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => Err(format!("the {file} has no certificate in PEM")),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("the {file} is not valid PEM: {error}")),
    }
}

/// Accepts any certificate (`verify: false`). The server must still have its private key.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_authorities_no_certificate_is_accepted() {
        let settings = |verify| ClientTls { ca_file: Some("ca.pem".into()), verify, ..ClientTls::default() };
        let error = config(&settings(true), &Files::default()).unwrap_err();
        assert_eq!(error, "the ca_file ca.pem has no certificate in PEM");
        assert!(config(&settings(false), &Files::default()).is_ok());
    }

    #[test]
    fn a_private_key_is_not_in_debug_output() {
        let files = Files { key: Some("s3cret".to_owned()), ..Files::default() };
        assert!(!format!("{files:?}").contains("s3cret"));
    }
}
