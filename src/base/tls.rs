//! Whose word counts for who a server is: the authorities inside the binary, or those of a file.
//!
//! Certificates are verified on every connection that we make; nothing turns that off. The file is
//! read once, at start.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, pem};
use rustls::{CertificateError, ClientConfig, InvalidMessage, RootCertStore};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::base::error::{Error, Result};

/// The option that names the file.
pub const VARIABLE: &str = "SSL_CERT_FILE";
/// All authorities of the world are below 1 MiB.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The authorities that are trusted.
#[derive(Clone, Default)]
pub struct Roots(Option<Arc<Given>>);

/// Those of a file, in place of the ones inside the binary.
struct Given {
    certificates: Vec<CertificateDer<'static>>,
    requests: TlsConfig,
    sockets: Arc<ClientConfig>,
    /// Certificates of the file that are none of an authority for us.
    ignored: usize,
}

impl Roots {
    /// Reads a PEM file. Whatever is wrong with it is one sentence that names the option.
    pub fn read(path: &Path) -> Result<Roots> {
        let refuse = |why: String| Error::invalid(format!("{VARIABLE}={}: {why}.", path.display()));
        let mut pem = Vec::new();
        File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut pem))
            .map_err(|error| refuse(format!("it cannot be read: {error}")))?;
        if pem.len() as u64 > FILE_BYTES_MAX {
            return Err(refuse("it is too large".to_owned()));
        }
        Roots::parse(&pem).map_err(refuse)
    }

    fn parse(pem: &[u8]) -> std::result::Result<Roots, String> {
        let (mut certificates, mut store) = (Vec::new(), RootCertStore::empty());
        let (mut ignored, mut first) = (0, None);
        for found in CertificateDer::pem_slice_iter(pem) {
            let certificate = found.map_err(|error| broken(&error))?;
            // Lists of systems have a few that nobody can read.
            match store.add(certificate.clone()) {
                Ok(()) => certificates.push(certificate),
                Err(error) => {
                    ignored += 1;
                    first.get_or_insert(error);
                }
            }
        }
        match (certificates.is_empty(), first) {
            (false, _) => {}
            (true, None) => return Err("there is no certificate in PEM form in it".to_owned()),
            (true, Some(error)) => {
                return Err(format!("no certificate in it can be used: {error}"));
            }
        }
        let provider = Arc::new(ring::default_provider());
        let sockets = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(store)
            .with_no_client_auth();
        let own = |der: &CertificateDer<'static>| Certificate::from_der(der).to_owned();
        let roots: RootCerts = certificates.iter().map(own).into();
        Ok(Roots(Some(Arc::new(Given {
            requests: TlsConfig::builder().root_certs(roots).build(),
            sockets: Arc::new(sockets),
            certificates,
            ignored,
        }))))
    }

    /// For HTTP requests.
    pub fn for_requests(&self) -> TlsConfig {
        match &self.0 {
            Some(given) => given.requests.clone(),
            None => TlsConfig::default(),
        }
    }

    /// For WebSockets; none: the authorities inside the binary.
    pub fn for_sockets(&self) -> Option<Arc<ClientConfig>> {
        self.0.as_ref().map(|given| Arc::clone(&given.sockets))
    }

    /// For mail, as DER; none: the authorities inside the binary.
    pub fn for_mail(&self) -> Option<impl Iterator<Item = Vec<u8>>> {
        let given = self.0.as_ref()?;
        Some(given.certificates.iter().map(|it| it.to_vec()))
    }

    /// How many certificates of the file are trusted and ignored; none: there is no file.
    pub fn counts(&self) -> Option<(usize, usize)> {
        let given = self.0.as_ref()?;
        Some((given.certificates.len(), given.ignored))
    }
}

/// In words: the errors of the crate show bytes as numbers.
fn broken(error: &pem::Error) -> String {
    let what = match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end",
        pem::Error::IllegalSectionStart { .. } => "a section has no proper begin",
        pem::Error::Base64Decode(_) => "a section is not base64",
        _ => "a section cannot be read",
    };
    format!("it is broken: {what}")
}

/// Whether the other side has answered in something that is no TLS.
pub fn is_other_protocol(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|it| it.downcast_ref());
    matches!(
        cause,
        Some(rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType
        ))
    )
}

/// What a connection was refused for, if it was for the certificate of the other side.
pub fn objection(error: &io::Error) -> Option<String> {
    let cause = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::InvalidCertificate(cause) = cause else {
        return None;
    };
    Some(match cause {
        CertificateError::UnknownIssuer => {
            format!("its certificate is from no authority that is trusted here ({VARIABLE})")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name".to_owned()
        }
        // Without a name of its own, and common: one that was made to sign itself.
        other if other.to_string().contains("CaUsedAsEndEntity") => {
            "its certificate is that of an authority, not that of a server".to_owned()
        }
        other => format!("its certificate cannot be accepted: {other}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTHORITY: &str = include_str!("../../tests/it/tls/authority.pem");

    fn refusal(pem: &str) -> String {
        Roots::parse(pem.as_bytes()).err().unwrap()
    }

    #[test]
    fn certificates_are_found_among_other_things() {
        let other = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let text = format!("# ours\n{AUTHORITY}\nand again\n{AUTHORITY}{other}");
        let roots = Roots::parse(text.as_bytes()).unwrap();
        assert_eq!(roots.counts(), Some((2, 1)));
        assert_eq!(roots.for_mail().unwrap().count(), 2);
        assert_eq!(Roots::default().counts(), None);
    }

    #[test]
    fn what_is_no_list_of_certificates_is_refused() {
        let none = "there is no certificate in PEM form in it";
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for pem in ["", "text\n", key] {
            assert_eq!(refusal(pem), none, "{pem}");
        }
        let cut = AUTHORITY.split("-----END").next().unwrap();
        let garbled = AUTHORITY.replacen("MII", "M!I", 1);
        for pem in [cut, &garbled, &format!("{AUTHORITY}{cut}")] {
            assert!(refusal(pem).starts_with("it is broken: "), "{pem}");
        }
        let empty = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(refusal(empty).starts_with("no certificate in it can be used: "));
    }
}
