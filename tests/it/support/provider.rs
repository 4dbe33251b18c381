//! A provider of sign-ins on the loopback: a page of consent, tokens with PKCE, users, id tokens
//! and the keys of these. What it answers is set by the test.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::api::encode;

pub const CLIENT: &str = "client-1";
pub const SECRET: &str = "secret-1";

pub struct Provider {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
}

/// How an id token is signed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Signing {
    Es256,
    /// No signature at all.
    None,
    /// An HMAC whose secret is the public key.
    Hs256,
    /// A key that the provider does not publish.
    Unknown,
}

struct State {
    issuer: String,
    answers: HashMap<String, (u16, Value)>,
    codes: HashMap<String, Consent>,
    count: usize,
    keys: Vec<Vec<u8>>,
    published: Vec<usize>,
    /// Changes of the claims of id tokens.
    claims: Value,
    signing: Signing,
    requests: Vec<(String, String)>,
}

/// What a code stands for.
struct Consent {
    redirect: String,
    challenge: String,
    nonce: String,
}

impl Provider {
    #[expect(clippy::disallowed_methods, reason = "tests have no Stop to share")]
    pub fn start() -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let state = State {
            issuer: format!("http://{addr}"),
            answers: HashMap::new(),
            codes: HashMap::new(),
            count: 0,
            keys: vec![new_key(), new_key()],
            published: vec![0],
            claims: json!({}),
            signing: Signing::Es256,
            requests: Vec::new(),
        };
        let provider = Provider {
            addr,
            state: Arc::new(Mutex::new(state)),
        };
        let state = Arc::clone(&provider.state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        provider
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Settings of a preset whose URLs are those of this provider.
    pub fn settings(&self, name: &str) -> Value {
        json!({"name": name, "clientId": CLIENT, "clientSecret": SECRET,
            "authURL": self.url("/page"), "tokenURL": self.url("/token"),
            "userInfoURL": self.url("/user")})
    }

    /// Settings of an issuer.
    pub fn issuer(&self, name: &str) -> Value {
        json!({"name": name, "clientId": CLIENT, "clientSecret": SECRET, "issuer": self.url("")})
    }

    /// Sets the answer to a path.
    pub fn answers(&self, path: &str, answer: Value) {
        self.lock().answers.insert(path.to_owned(), (200, answer));
    }

    pub fn refuses(&self, path: &str, status: u16) {
        self.lock()
            .answers
            .insert(path.to_owned(), (status, json!({"error": "refused"})));
    }

    /// Changes claims of id tokens; null removes one.
    pub fn claims(&self, claims: Value) {
        self.lock().claims = claims;
    }

    pub fn signs_with(&self, signing: Signing) {
        self.lock().signing = signing;
    }

    /// Signs with another key from now on, and publishes only that.
    pub fn rotate(&self) {
        let mut state = self.lock();
        state.keys.swap(0, 1);
        state.published = vec![0];
    }

    /// Paths and bodies of the requests so far.
    pub fn requests(&self) -> Vec<(String, String)> {
        self.lock().requests.clone()
    }

    /// The body of the first request for a token.
    pub fn token_request(&self) -> String {
        let requests = self.requests().into_iter();
        let mut bodies = requests.filter(|(path, _)| path == "/token");
        bodies.next().unwrap().1
    }

    /// The user consents at this page; the code with which the browser is led back.
    pub fn consent(&self, page: &str) -> String {
        let query = page.split_once('?').unwrap().1;
        let value = |name: &str| form_value(query, name);
        assert_eq!(value("client_id"), CLIENT, "{page}");
        assert_eq!(value("response_type"), "code", "{page}");
        assert!(!value("state").is_empty(), "{page}");
        let mut state = self.lock();
        state.count += 1;
        let code = format!("code-{}-{}", self.addr.port(), state.count);
        let consent = Consent {
            redirect: value("redirect_uri"),
            challenge: value("code_challenge"),
            nonce: value("nonce"),
        };
        state.codes.insert(code.clone(), consent);
        code
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The value of a name in a form or query; empty if there is none.
pub fn form_value(form: &str, name: &str) -> String {
    let pairs = form.split('&').filter_map(|pair| pair.split_once('='));
    let mut values = pairs.filter(|(found, _)| *found == name);
    values
        .next()
        .map_or_else(String::new, |(_, value)| decode(value))
}

fn decode(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, more @ ..] = rest {
        rest = more;
        bytes.push(match (first, more) {
            (b'+', _) => b' ',
            (b'%', [high, low, after @ ..]) => {
                rest = after;
                let digits = [*high, *low];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            (byte, _) => *byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}

/// The page with the URL to which it leads back.
pub fn page_for(provider: &Value, redirect: &str) -> String {
    format!(
        "{}{}",
        provider["authURL"].as_str().unwrap(),
        encode(redirect)
    )
}

fn new_key() -> Vec<u8> {
    let random = SystemRandom::new();
    let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
    made.unwrap().as_ref().to_vec()
}

/// A private key of P-256 in PKCS #8, as PEM.
pub fn private_key() -> String {
    let body = STANDARD.encode(new_key());
    format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
}

fn pair(pkcs8: &[u8]) -> EcdsaKeyPair {
    let random = SystemRandom::new();
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random).unwrap()
}

fn name_of(key: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(&Sha256::digest(key)[..6])
}

impl State {
    fn answer(&mut self, path: &str, head: &str, body: &str) -> (u16, Value) {
        self.requests.push((path.to_owned(), body.to_owned()));
        if let Some(answer) = self.answers.get(path) {
            return answer.clone();
        }
        let at = |path: &str| format!("{}{path}", self.issuer);
        match path {
            "/token" => self.token(head, body),
            "/.well-known/openid-configuration" => (
                200,
                json!({"issuer": self.issuer, "authorization_endpoint": at("/page"),
                    "token_endpoint": at("/token"), "jwks_uri": at("/keys")}),
            ),
            "/keys" => {
                let keys = self.published.iter().map(|at| jwk(&self.keys[*at]));
                (200, json!({"keys": keys.collect::<Vec<_>>()}))
            }
            _ => (404, json!({"error": "no such path"})),
        }
    }

    fn token(&mut self, head: &str, body: &str) -> (u16, Value) {
        let value = |name: &str| form_value(body, name);
        let basic = STANDARD.encode(format!("{CLIENT}:{SECRET}"));
        let is_client = head.contains(&format!("Basic {basic}"))
            || (value("client_id") == CLIENT && !value("client_secret").is_empty());
        let refused = || (400, json!({"error": "invalid_grant"}));
        // Used up, whatever comes of it.
        let Some(consent) = self.codes.remove(&value("code")) else {
            return refused();
        };
        let verifier = URL_SAFE_NO_PAD.encode(Sha256::digest(value("code_verifier")));
        let is_his = consent.challenge.is_empty() || consent.challenge == verifier;
        if !is_client || !is_his || consent.redirect != value("redirect_uri") {
            return refused();
        }
        let mut answer = json!({"access_token": "access-1", "token_type": "Bearer",
            "expires_in": 3600, "refresh_token": "refresh-1"});
        if !consent.nonce.is_empty() {
            answer["id_token"] = json!(self.id_token(&consent.nonce));
        }
        (200, answer)
    }

    fn id_token(&self, nonce: &str) -> String {
        #[expect(clippy::disallowed_methods, reason = "a token ends by the clock")]
        let now = SystemTime::now();
        let now = now.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({"iss": self.issuer, "aud": CLIENT, "sub": "subject-1",
            "nonce": nonce, "iat": now, "exp": now + 300});
        for (name, value) in self.claims.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let key = &self.keys[0];
        let name = match self.signing {
            Signing::Es256 => "ES256",
            Signing::Unknown => "ES256",
            Signing::None => "none",
            Signing::Hs256 => "HS256",
        };
        let header = json!({"alg": name, "kid": name_of(key), "typ": "JWT"});
        let part = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = match self.signing {
            Signing::Es256 => sign(key, &signed),
            Signing::Unknown => sign(&self.keys[1], &signed),
            Signing::None => Vec::new(),
            Signing::Hs256 => {
                let secret = pair(key);
                let mac = Hmac::<Sha256>::new_from_slice(secret.public_key().as_ref());
                let mut mac = mac.unwrap();
                mac.update(signed.as_bytes());
                mac.finalize().into_bytes().to_vec()
            }
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn sign(key: &[u8], text: &str) -> Vec<u8> {
    let signed = pair(key).sign(&SystemRandom::new(), text.as_bytes());
    signed.unwrap().as_ref().to_vec()
}

fn jwk(key: &[u8]) -> Value {
    let pair = pair(key);
    let point = pair.public_key().as_ref();
    json!({"kty": "EC", "crv": "P-256", "use": "sig", "kid": name_of(key),
        "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..])})
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut stream = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap();
        }
        head += &line;
    }
    let mut body = vec![0; length];
    if head.is_empty() || stream.read_exact(&mut body).is_err() {
        return;
    }
    let target = head.split(' ').nth(1).unwrap();
    let path = target.split('?').next().unwrap();
    let (status, answer) = lock(state).answer(path, &head, &String::from_utf8_lossy(&body));
    let text = answer.to_string();
    let _ = write!(
        stream.get_mut(),
        "HTTP/1.1 {status} Answer\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{text}",
        text.len()
    );
}
