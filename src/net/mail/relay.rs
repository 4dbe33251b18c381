//! The SMTP server that accepts outgoing mail, and the sender address.

use std::net::IpAddr;

use lettre::SmtpTransport;
use lettre::message::Mailbox;
use lettre::transport::smtp;
use lettre::transport::smtp::SmtpTransportBuilder;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};

use crate::base::error::{Error, Result};
use crate::base::tls;
use crate::base::tls::Roots;

/// Selects the TLS mode of a connection: implicit, required or opportunistic.
type Encrypt = fn(TlsParameters) -> Tls;

/// The SMTP server and the credentials for it.
#[derive(Clone)]
pub struct Relay {
    pub builder: SmtpTransportBuilder,
    /// The host and TLS mode of an encrypted connection.
    pub encryption: Option<(String, Encrypt)>,
    /// The URL contains the name for EHLO.
    pub has_hello: bool,
}

impl Relay {
    /// Parses `smtps://USER:PASSWORD@HOST:PORT` (implicit TLS, port 465) or the same with `smtp`
    /// (STARTTLS, port 587).
    ///
    /// Plain `smtp` requires STARTTLS, except for a loopback host, where it does not use it (port
    /// 25). `?tls=required` and `?tls=opportunistic` override this. A path is the name for EHLO.
    /// Returns none for other schemes, and for likely mistakes: a user without a password, other
    /// parameters, and an IPv6 address, which lettre would look up as a name.
    pub fn parse(url: &str) -> Option<Relay> {
        let (scheme, rest) = url.split_once("://")?;
        let (rest, tls) = match rest.split_once('?') {
            Some((rest, tls)) => (rest, Some(tls)),
            None => (rest, None),
        };
        let (authority, hello) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, host_port) = match authority.rsplit_once('@') {
            Some((user, host_port)) => (Some(user), host_port),
            None => (None, authority),
        };
        let host = host_port.split(':').next().unwrap_or_default();
        let has_scheme = match scheme {
            "smtps" => tls.is_none(),
            "smtp" => matches!(tls, None | Some("tls=required" | "tls=opportunistic")),
            _ => false,
        };
        let is_forbidden = |c: char| c.is_whitespace() || c.is_control() || c == '#';
        if !has_scheme
            || url.contains(is_forbidden)
            || user.is_some_and(|user| !user.contains(':'))
            || host.is_empty()
            || host.contains(['[', ']', '%'])
            || hello.contains(['/', '@', '%'])
        {
            return None;
        }
        let must_encrypt = scheme == "smtp" && tls.is_none() && !is_loopback(host);
        let parameter = if must_encrypt { "?tls=required" } else { "" };
        let encryption: Option<Encrypt> = match tls {
            _ if scheme == "smtps" => Some(Tls::Wrapper),
            Some("tls=opportunistic") => Some(Tls::Opportunistic),
            Some(_) => Some(Tls::Required),
            None => must_encrypt.then_some(Tls::Required),
        };
        Some(Relay {
            builder: SmtpTransport::from_url(&format!("{url}{parameter}")).ok()?,
            encryption: encryption.map(|it| (host.to_owned(), it)),
            has_hello: !hello.is_empty(),
        })
    }

    /// Trusts these authorities only.
    pub fn trusting(mut self, roots: &Roots) -> Result<Relay> {
        if let (Some((host, encryption)), Some(given)) = (&self.encryption, roots.for_mail()) {
            let invalid = |error: smtp::Error| {
                Error::invalid(format!(
                    "{} cannot be used for mail: {error}.",
                    tls::VARIABLE
                ))
            };
            let mut parameters =
                TlsParameters::builder(host.clone()).certificate_store(CertificateStore::None);
            for der in given {
                let certificate = Certificate::from_der(der).map_err(invalid)?;
                parameters = parameters.add_root_certificate(certificate);
            }
            let parameters = parameters.build().map_err(invalid)?;
            self.builder = self.builder.tls(encryption(parameters));
        }
        Ok(self)
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// The sender of all mails.
#[derive(Clone)]
pub struct Sender(pub Mailbox);

impl Sender {
    /// Parses an address, or `Name <address>`.
    pub fn parse(text: &str) -> Option<Sender> {
        let (name, address) = match text.strip_suffix('>') {
            Some(rest) => rest.rsplit_once('<')?,
            None => ("", text),
        };
        let name = name.trim().trim_matches('"');
        if text.contains(char::is_control) || name.contains(['<', '>', '"']) {
            return None;
        }
        let name = (!name.is_empty()).then(|| name.to_owned());
        Some(Sender(Mailbox::new(name, address.trim().parse().ok()?)))
    }

    /// The domain of the address, for EHLO and message ids.
    pub fn domain(&self) -> Option<&str> {
        Some(self.0.email.domain()).filter(|domain| domain.is_ascii())
    }
}
