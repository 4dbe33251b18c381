//! Signing in with a one-time code that is mailed to the account.
//!
//! A request for a code gets the same answer whether the account exists or not. Its code proves
//! that the caller reads the mails of the address. An account whose address was not verified is
//! then taken over by the owner of the address: another person may have made it in advance, so its
//! password, its tokens and its links end.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::accounts::{AccountSession, Realm};
use super::authentication::Auth;
use super::mailed_codes::{CodeOwner, NewCode};
use crate::base::error::{Error, Kind, Result};
use crate::base::ids;
use crate::model::records::Shape;
use crate::model::records::account::{AccountChange, Secrets};
use crate::net::mail::{Mail, MailPurpose};
use crate::store::db::QueryCaller;

/// `{APP_NAME}` in templates.
const APP_NAME: &str = "vski";

/// The id and the code that a caller signs in with.
pub struct CodeLogIn<'a> {
    pub id: &'a str,
    pub code: &'a str,
    /// The address of the client.
    pub from: IpAddr,
    pub asker: QueryCaller<'a>,
}

impl Auth {
    /// Makes a code for the account with this address. Returns its id, and the mail with the code
    /// if there is such an account.
    pub fn request_code(
        &self,
        realm: &Realm,
        email: &str,
        from: IpAddr,
    ) -> Result<(String, Option<Mail>)> {
        let settings = &realm.collection.auth;
        let email = email.to_ascii_lowercase();
        let _counted = self.mails.attempt(&realm.label("code", &email), from)?;
        let found = realm.by_email(&email)?;
        let dummy = Secrets::dummy();
        // Made even if there is no such account, so that the time does not reveal which addresses
        // exist.
        let key = self.account_key(realm, found.as_ref().unwrap_or(&dummy));
        let (id, code) = (ids::account_id()?, random_digits(settings.code_length())?);
        let new = NewCode {
            realm: &realm.label("code", ""),
            address: &email,
            id: &id,
            code: &code,
            owner: found.as_ref().map(|secrets| CodeOwner {
                id: secrets.id.clone(),
                key,
            }),
        };
        let life = Duration::from_secs(settings.code_seconds());
        self.mailed.add(new, life, Instant::now());
        let to = found.as_ref().unwrap_or(&dummy).email.clone();
        let mail = self.code_mail(realm, to, &id, code);
        Ok((id, found.map(|_| mail)))
    }

    /// Signs in the account that a code was mailed to. The code is used up.
    pub fn sign_in_with_code(
        &self,
        realm: &Realm,
        log_in: &CodeLogIn<'_>,
        shape: &Shape,
    ) -> Result<AccountSession> {
        let label = realm.label("code", log_in.id);
        let attempt = self.failures.attempt(&label, log_in.from)?;
        let realm_name = realm.label("code", "");
        let owner = self
            .mailed
            .take(&realm_name, log_in.id, log_in.code, Instant::now());
        let owner = owner.ok_or_else(wrong_code)?;
        attempt.refund();
        // A code ends with the tokens of the account: when its address or password changes.
        let secrets = realm.secrets(&owner.id)?;
        let secrets = secrets.filter(|it| self.account_key(realm, it) == owner.key);
        let secrets = secrets.ok_or_else(wrong_code)?;
        if !secrets.is_verified {
            let changed = self.apply_change(realm, secrets, AccountChange::TakenOver);
            changed.map_err(|error| match error.kind() {
                Kind::Invalid => wrong_code(),
                _ => error,
            })?;
        }
        self.provider_session(realm, &owner.id, shape, log_in.asker)
    }

    fn code_mail(&self, realm: &Realm, to: String, id: &str, code: String) -> Mail {
        let (subject, body) = realm.collection.auth.code_template();
        let fill = |text: &str| {
            let url = self.settings.public_url.trim_end_matches('/');
            text.replace("{APP_NAME}", APP_NAME)
                .replace("{APP_URL}", url)
                .replace("{OTP_ID}", id)
                .replace("{OTP}", &code)
        };
        Mail {
            purpose: MailPurpose::Code,
            to,
            subject: fill(subject),
            text: fill(&text_of_html(body)),
            link: code,
        }
    }
}

/// The text of a template: without tags, a line for each paragraph, the target behind each link.
fn text_of_html(html: &str) -> String {
    let (mut text, mut target) = (String::new(), String::new());
    let mut parts = html.split('<');
    text += parts.next().unwrap_or_default();
    for part in parts {
        let Some((tag, rest)) = part.split_once('>') else {
            text.push('<');
            text += part;
            continue;
        };
        let name = tag.split([' ', '/', '\n']).find(|it| !it.is_empty());
        match name.unwrap_or_default() {
            "a" if !tag.starts_with('/') => {
                let href = tag
                    .split_once("href=\"")
                    .and_then(|it| it.1.split_once('"'));
                href.map_or("", |it| it.0).clone_into(&mut target);
            }
            "a" if !target.is_empty() => text += &format!(" ({})", std::mem::take(&mut target)),
            "p" | "div" if tag.starts_with('/') => text.push('\n'),
            "br" => text.push('\n'),
            _ => {}
        }
        text += rest;
    }
    let text = text.replace("&lt;", "<").replace("&gt;", ">");
    let text = text.replace("&quot;", "\"").replace("&nbsp;", " ");
    text.replace("&amp;", "&").trim().to_owned() + "\n"
}

fn random_digits(length: usize) -> Result<String> {
    let mut digits = String::with_capacity(length);
    while digits.len() < length {
        // 250 is a multiple of 10, so each digit is as likely as the others.
        let bytes = ids::random_bytes::<64>()?;
        let fair = bytes.into_iter().filter(|byte| *byte < 250);
        let left = length - digits.len();
        digits.extend(fair.take(left).map(|byte| char::from(b'0' + byte % 10)));
    }
    Ok(digits)
}

fn wrong_code() -> Error {
    Error::invalid("The code is wrong, was already used or has expired.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_becomes_plain_text() {
        let html =
            "<p>Hello,</p>\n<p>it is <strong>{OTP}</strong> &lt;3</p><p><a href=\"u\">x</a></p>";
        assert_eq!(text_of_html(html), "Hello,\n\nit is {OTP} <3\nx (u)\n");
        assert_eq!(text_of_html("a < b"), "a < b\n");
    }

    #[test]
    fn codes_have_their_length_in_digits() {
        for length in [4, 8, 64] {
            let code = random_digits(length).unwrap();
            assert_eq!(code.len(), length);
            assert!(code.bytes().all(|byte| byte.is_ascii_digit()));
        }
    }
}
