//! Signatures of JSON Web Tokens with public keys (RFC 7515, 7518, 8037): RS256, ES256 and EdDSA.
//!
//! The algorithm follows from the key, never from the token alone, so a token can neither choose
//! `none` nor make a public key the secret of an HMAC.

use ring::rand::SystemRandom;
use ring::signature;
use ring::signature::{EcdsaKeyPair, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::Value;

use super::crypto::{from_base64, from_base64url};
use super::error::{Error, Result};

/// Length of a coordinate of P-256, and of a key of Ed25519.
const KEY_BYTES: usize = 32;

/// A public key.
#[derive(Clone, Debug, PartialEq)]
pub enum PublicKey {
    /// Modulus and exponent.
    Rsa(Vec<u8>, Vec<u8>),
    /// A point of P-256, uncompressed.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl PublicKey {
    /// Reads a key of a JWK (RFC 7517). None for another kind of key, or one that is not for
    /// signatures.
    pub fn of_jwk(jwk: &Value) -> Option<PublicKey> {
        let text = |name: &str| jwk[name].as_str();
        let bytes = |name: &str| from_base64url(text(name)?.trim_end_matches('='));
        if text("use").is_some_and(|it| it != "sig") {
            return None;
        }
        let key = match (text("kty")?, text("crv")) {
            ("RSA", _) => PublicKey::Rsa(bytes("n")?, bytes("e")?),
            ("EC", Some("P-256")) => {
                let (x, y) = (bytes("x")?, bytes("y")?);
                if x.len() != KEY_BYTES || y.len() != KEY_BYTES {
                    return None;
                }
                PublicKey::P256([&[4][..], &x, &y].concat())
            }
            ("OKP", Some("Ed25519")) => PublicKey::Ed25519(bytes("x")?),
            _ => return None,
        };
        let is_its = text("alg").is_none_or(|named| key.algorithms().contains(&named));
        is_its.then_some(key)
    }

    /// The names of the algorithm of this key.
    fn algorithms(&self) -> &'static [&'static str] {
        match self {
            PublicKey::Rsa(..) => &["RS256"],
            PublicKey::P256(_) => &["ES256"],
            PublicKey::Ed25519(_) => &["EdDSA", "Ed25519"],
        }
    }

    /// True if the signature is valid and of the algorithm named, which must be that of the key.
    pub fn verify(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        if !self.algorithms().contains(&algorithm) {
            return false;
        }
        let verified = match self {
            PublicKey::Rsa(n, e) => RsaPublicKeyComponents { n, e }.verify(
                &signature::RSA_PKCS1_2048_8192_SHA256,
                message,
                signature,
            ),
            PublicKey::P256(point) => {
                let key = UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point);
                key.verify(message, signature)
            }
            PublicKey::Ed25519(key) => {
                let key = UnparsedPublicKey::new(&signature::ED25519, key);
                key.verify(message, signature)
            }
        };
        verified.is_ok()
    }
}

/// Signs with ES256, by a private key in PKCS #8 as PEM.
pub fn sign_es256(pem: &str, message: &[u8]) -> Result<Vec<u8>> {
    let invalid = || Error::invalid("The private key is not one of P-256 in PKCS #8 (PEM).");
    let lines = pem.lines().filter(|line| !line.starts_with("-----"));
    let der = from_base64(&lines.map(str::trim).collect::<String>()).ok_or_else(invalid)?;
    let random = SystemRandom::new();
    let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let key = EcdsaKeyPair::from_pkcs8(algorithm, &der, &random).map_err(|_| invalid())?;
    let signature = key.sign(&random, message);
    let signature = signature.map_err(|_| Error::internal("sign with ES256"))?;
    Ok(signature.as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// RFC 7515, appendix A.2: RS256.
    #[test]
    fn rs256_matches_the_published_vector() {
        let jwk = json!({"kty": "RSA", "e": "AQAB", "n":
            "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEz\
             P1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf6\
             3kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5Zw\
             Kh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRW\
             yuXpoQ"});
        let message =
            b"eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6\
                        Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF\
                         5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK\
                         5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqt\
                         FZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrB\
                         p0igcN_IoypGlUPQGe77Rw";
        let signature = from_base64url(signature).unwrap();
        let key = PublicKey::of_jwk(&jwk).unwrap();
        assert!(key.verify("RS256", message, &signature));
        assert!(!key.verify("RS256", &message[1..], &signature));
        assert!(!key.verify("HS256", message, &signature));
    }

    /// RFC 7515, appendix A.3: ES256.
    #[test]
    fn es256_matches_the_published_vector() {
        let jwk = json!({"kty": "EC", "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"});
        let message =
            b"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6\
                        Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        let signature = from_base64url(signature).unwrap();
        let key = PublicKey::of_jwk(&jwk).unwrap();
        assert!(key.verify("ES256", message, &signature));
        assert!(!key.verify("ES256", &message[1..], &signature));
        for other in ["RS256", "HS256", "none", "EdDSA", ""] {
            assert!(!key.verify(other, message, &signature), "{other}");
        }
    }

    /// RFC 8037, appendix A.4: EdDSA.
    #[test]
    fn eddsa_matches_the_published_vector() {
        let jwk = json!({"kty": "OKP", "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        let message = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        let signature = from_base64url(signature).unwrap();
        let key = PublicKey::of_jwk(&jwk).unwrap();
        assert!(key.verify("EdDSA", message, &signature));
        assert!(!key.verify("RS256", message, &signature));
    }

    #[test]
    fn keys_of_other_kinds_and_uses_are_passed_over() {
        for jwk in [
            json!({"kty": "oct", "k": "AAAA"}),
            json!({"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}),
            json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
            json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "use": "enc"}),
            json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "HS256"}),
            json!({}),
        ] {
            assert_eq!(PublicKey::of_jwk(&jwk), None, "{jwk}");
        }
    }
}
