//! Checks signatures. The key says which algorithms are meant, never the token: an RSA key is not taken for a secret.

use hmac::{Hmac, KeyInit, Mac};
use rsa::pkcs1v15::{Signature, VerifyingKey};
use rsa::pkcs8::DecodePublicKey;
use rsa::signature::Verifier;
use rsa::traits::PublicKeyParts;
use rsa::{BoxedUint, PublicKey};
use sha2::{Sha256, Sha384, Sha512};

use super::{base64url, Problem, Token};
use crate::json::Value;

/// RSA keys, in bits. The upper end keeps a check within a filter's time.
const SMALLEST: u32 = 2048;
const LARGEST: u32 = 4096;

/// What a token is checked with.
#[derive(Clone)]
pub struct Key(Kind);

#[derive(Clone)]
enum Kind {
    Secret(Vec<u8>),
    Rsa(Box<PublicKey>),
}

impl std::fmt::Debug for Key {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self.0 {
            Kind::Secret(_) => "Key(secret)",
            Kind::Rsa(_) => "Key(RSA)",
        })
    }
}

impl Key {
    /// A secret, for HS256, HS384 and HS512. Nothing for an empty one.
    pub fn secret(secret: impl Into<Vec<u8>>) -> Option<Self> {
        let secret = secret.into();
        (!secret.is_empty()).then_some(Key(Kind::Secret(secret)))
    }

    /// An RSA public key of 2048 to 4096 bits, for RS256, RS384 and RS512: PEM, `-----BEGIN PUBLIC KEY-----`.
    pub fn rsa_pem(pem: &str) -> Option<Self> {
        Self::rsa(PublicKey::from_public_key_pem(pem.trim()).ok()?)
    }

    /// One key of a JWK set (RFC 7517): `kty` is `RSA` or `oct`.
    pub fn jwk(key: Value<'_>) -> Option<Self> {
        let bytes = |name| base64url(key.get(name)?.as_str()?.as_bytes());
        match &*key.get("kty")?.as_str()? {
            "oct" => Self::secret(bytes("k")?),
            "RSA" => {
                let number = |name| {
                    bytes(name).filter(|bytes| bytes.len() <= LARGEST as usize / 8).map(|bytes| BoxedUint::from_be_slice_vartime(&bytes))
                };
                Self::rsa(PublicKey::new(number("n")?, number("e")?).ok()?)
            }
            _ => None,
        }
    }

    fn rsa(key: PublicKey) -> Option<Self> {
        (SMALLEST..=LARGEST).contains(&key.n().bit_width()).then(|| Key(Kind::Rsa(Box::new(key))))
    }
}

impl Token<'_> {
    /// The claims, once the signature is found to be that key's. Whether they are still good is asked with
    /// [`super::is_current`].
    ///
    /// # Errors
    /// A signature that is another one, or of a kind that the key is not for.
    pub fn verify(&self, key: &Key) -> Result<Value<'_>, Problem> {
        if self.header().get("crit").is_some() {
            return Err(Problem::Critical);
        }
        let algorithm = self.algorithm().ok_or(Problem::Algorithm)?;
        let fits = match (&key.0, &*algorithm) {
            (Kind::Secret(secret), "HS256") => self.mac::<Hmac<Sha256>>(secret),
            (Kind::Secret(secret), "HS384") => self.mac::<Hmac<Sha384>>(secret),
            (Kind::Secret(secret), "HS512") => self.mac::<Hmac<Sha512>>(secret),
            (Kind::Rsa(key), "RS256") => self.signed_by(&VerifyingKey::<Sha256>::new(*key.clone())),
            (Kind::Rsa(key), "RS384") => self.signed_by(&VerifyingKey::<Sha384>::new(*key.clone())),
            (Kind::Rsa(key), "RS512") => self.signed_by(&VerifyingKey::<Sha512>::new(*key.clone())),
            _ => return Err(Problem::Algorithm),
        };
        if fits {
            Ok(self.unverified())
        } else {
            Err(Problem::Signature)
        }
    }

    /// Compares in constant time.
    fn mac<M: Mac + KeyInit>(&self, secret: &[u8]) -> bool {
        <M as KeyInit>::new_from_slice(secret).is_ok_and(|mac| mac.chain_update(self.signed).verify_slice(&self.signature).is_ok())
    }

    fn signed_by(&self, key: &impl Verifier<Signature>) -> bool {
        Signature::try_from(&*self.signature).is_ok_and(|signature| key.verify(self.signed, &signature).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;
    use crate::jwt::tests::HS256;

    /// The key of RFC 7515, appendix A.1.
    const SECRET: &str = r#"{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}"#;

    /// The key and the token of RFC 7515, appendix A.2.
    const RSA: &str = r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#;
    const RS256: &str = "eyJhbGciOiJSUzI1NiJ9.\
        eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
        cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

    fn key(jwk: &str) -> Key {
        Key::jwk(json::parse(jwk.as_bytes()).unwrap()).unwrap()
    }

    fn verified(token: &str, key: &Key) -> Result<String, Problem> {
        let token = Token::read(token.as_bytes()).unwrap();
        token.verify(key).map(|claims| claims.get("iss").and_then(Value::as_str).unwrap_or_default().into_owned())
    }

    #[test]
    fn the_rfcs_tokens_fit_their_keys() {
        assert_eq!(verified(HS256, &key(SECRET)), Ok("joe".into()));
        assert_eq!(verified(RS256, &key(RSA)), Ok("joe".into()));
    }

    #[test]
    fn a_token_that_is_changed_in_any_byte_does_not_fit() {
        for (token, key) in [(HS256, key(SECRET)), (RS256, key(RSA))] {
            // The last character of base64 has bits that nothing holds: changed, it is no token.
            for at in (0..token.len() - 1).step_by(7) {
                let mut changed = token.as_bytes().to_vec();
                changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
                if let Ok(token) = Token::read(&changed) {
                    assert!(token.verify(&key).is_err(), "{at}");
                }
            }
        }
    }

    /// Those of the "JWT attacks": no algorithm, and the public key's text taken for a secret.
    #[test]
    fn the_token_does_not_choose_the_kind_of_key() {
        assert_eq!(verified(HS256, &key(RSA)), Err(Problem::Algorithm));
        assert_eq!(verified(RS256, &key(SECRET)), Err(Problem::Algorithm));
        for key in [key(SECRET), key(RSA)] {
            // {"alg":"none"}, {"alg":"NONE"}, {}, {"alg":"HS256","crit":["x"]}
            for (header, problem) in [
                ("eyJhbGciOiJub25lIn0", Problem::Algorithm),
                ("eyJhbGciOiJOT05FIn0", Problem::Algorithm),
                ("e30", Problem::Algorithm),
                ("eyJhbGciOiJIUzI1NiIsImNyaXQiOlsieCJdfQ", Problem::Critical),
            ] {
                assert_eq!(verified(&format!("{header}.e30."), &key), Err(problem), "{header}");
            }
        }
        assert_eq!(verified("eyJhbGciOiJIUzI1NiJ9.e30.", &key(SECRET)), Err(Problem::Signature));
    }

    #[test]
    fn keys_are_of_a_known_kind_and_size() {
        for jwk in
            ["{}", r#"{"kty":"oct","k":""}"#, r#"{"kty":"EC"}"#, r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#, r#"{"kty":"RSA","n":"","e":""}"#]
        {
            assert!(Key::jwk(json::parse(jwk.as_bytes()).unwrap()).is_none(), "{jwk}");
        }
        assert!(Key::secret("").is_none());
        assert!(Key::rsa_pem("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----").is_none());
    }
}
