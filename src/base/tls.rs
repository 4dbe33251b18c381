//! Trusted certificate authorities: those built into the binary, or those of a file.
//!
//! Certificates are verified on every outgoing connection; no option turns that off. The file is
//! read once, at the start.

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
/// Largest file; the public authorities together take less than 1 MiB.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The authorities that are trusted.
#[derive(Clone, Default)]
pub struct Roots(Option<Arc<FileRoots>>);

/// The authorities of a file, in place of those built into the binary.
struct FileRoots {
    certificates: Vec<CertificateDer<'static>>,
    requests: TlsConfig,
    sockets: Arc<ClientConfig>,
    /// Number of certificates of the file that cannot be used as authorities.
    ignored: usize,
}

impl Roots {
    /// Reads a PEM file. An error is one sentence that names the option.
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
            let certificate = found.map_err(|error| describe(&error))?;
            // The lists of operating systems contain a few unusable certificates.
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
            (true, None) => return Err("it contains no PEM certificate".to_owned()),
            (true, Some(error)) => {
                return Err(format!("it contains no usable certificate: {error}"));
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
        Ok(Roots(Some(Arc::new(FileRoots {
            requests: TlsConfig::builder().root_certs(roots).build(),
            sockets: Arc::new(sockets),
            certificates,
            ignored,
        }))))
    }

    /// The configuration of HTTP requests.
    pub fn for_requests(&self) -> TlsConfig {
        match &self.0 {
            Some(given) => given.requests.clone(),
            None => TlsConfig::default(),
        }
    }

    /// The configuration of WebSockets; none means the built-in authorities.
    pub fn for_sockets(&self) -> Option<Arc<ClientConfig>> {
        self.0.as_ref().map(|given| Arc::clone(&given.sockets))
    }

    /// The authorities for mail, as DER; none means the built-in ones.
    pub fn for_mail(&self) -> Option<impl Iterator<Item = Vec<u8>>> {
        let given = self.0.as_ref()?;
        Some(given.certificates.iter().map(|it| it.to_vec()))
    }

    /// The numbers of trusted and of ignored certificates of the file; none without a file.
    pub fn counts(&self) -> Option<(usize, usize)> {
        let given = self.0.as_ref()?;
        Some((given.certificates.len(), given.ignored))
    }
}

/// Describes an error in words: the errors of the crate show bytes as numbers.
fn describe(error: &pem::Error) -> String {
    let what = match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end",
        pem::Error::IllegalSectionStart { .. } => "a section has a malformed start",
        pem::Error::Base64Decode(_) => "a section is not base64",
        _ => "a section cannot be read",
    };
    format!("it is malformed: {what}")
}

/// True if the peer has answered with a protocol other than TLS.
pub fn is_other_protocol(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|it| it.downcast_ref());
    matches!(
        cause,
        Some(rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType
        ))
    )
}

/// Why the certificate of the peer was refused; none for another error.
pub fn certificate_error(error: &io::Error) -> Option<String> {
    let cause = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::InvalidCertificate(cause) = cause else {
        return None;
    };
    Some(match cause {
        CertificateError::UnknownIssuer => {
            format!("its certificate is signed by an untrusted authority ({VARIABLE})")
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
        // The crate has no variant for this common case, a self-signed certificate.
        other if other.to_string().contains("CaUsedAsEndEntity") => {
            "its certificate is for an authority, not for a server".to_owned()
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
        let none = "it contains no PEM certificate";
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for pem in ["", "text\n", key] {
            assert_eq!(refusal(pem), none, "{pem}");
        }
        let cut = AUTHORITY.split("-----END").next().unwrap();
        let garbled = AUTHORITY.replacen("MII", "M!I", 1);
        for pem in [cut, &garbled, &format!("{AUTHORITY}{cut}")] {
            assert!(refusal(pem).starts_with("it is malformed: "), "{pem}");
        }
        let empty = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(refusal(empty).starts_with("it contains no usable certificate: "));
    }
}
