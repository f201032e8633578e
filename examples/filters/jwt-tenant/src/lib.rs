//! Steals the requests whose JSON Web Token says that they are of a given tenant.
//!
//! Config: `{"tenant": "acme", "claim": "/org/id", "secret": "…"}`; see README.md.

use mirrord_filter_sdk::config::Fields;
use mirrord_filter_sdk::json::Value;
use mirrord_filter_sdk::jwt::{self, Key, Problem, Token};
use mirrord_filter_sdk::{filter, host, Filter, Request, Verdict};

const EXAMPLE: &str = r#"{"tenant": "acme", "claim": "/tenant", "public_key": "-----BEGIN PUBLIC KEY-----\n…"}"#;

/// Whose requests are ours, and what their tokens are checked with.
pub struct JwtTenant {
    tenant: String,
    claim: String,
    key: Option<Key>,
}

impl Filter for JwtTenant {
    fn from_config(config: &[u8]) -> Result<Self, String> {
        let mut fields = Fields::read(config, EXAMPLE)?;
        let tenant = fields.text("tenant")?;
        let claim = fields.optional_text("claim")?.unwrap_or_else(|| "/tenant".into());
        if !claim.starts_with('/') {
            return Err(fields.wrong(format_args!("\"claim\" is a JSON pointer and begins with a slash, as \"/{claim}\"")));
        }
        let secret = fields.optional_text("secret")?.map(|secret| Key::secret(secret).ok_or("\"secret\" is empty"));
        let public = fields
            .optional_text("public_key")?
            .map(|pem| Key::rsa_pem(&pem).ok_or("\"public_key\" is no RSA public key of 2048 to 4096 bits in PEM"));
        let jwk = fields.value("jwk").map(|jwk| Key::jwk(jwk).ok_or("\"jwk\" is no RSA or oct key"));
        fields.no_others()?;
        let mut keys = [secret, public, jwk].into_iter().flatten();
        let key = keys.next().transpose().map_err(|problem| fields.wrong(problem))?;
        if keys.next().is_some() {
            return Err(fields.wrong("only one of \"secret\", \"public_key\" and \"jwk\" can be the key"));
        }
        Ok(JwtTenant { tenant, claim, key })
    }

    fn on_request(&mut self, request: &mut Request) -> Verdict {
        let Some(token) = jwt::bearer(request) else { return Verdict::Pass };
        match Token::read(token).and_then(|token| self.names_tenant(&token)) {
            Ok(true) => {
                request.reason("the token names the configured tenant");
                Verdict::Steal
            }
            Ok(false) => Verdict::Pass,
            // Never the token itself: reasons are read by others.
            Err(problem) => {
                request.reason(problem.to_string());
                Verdict::Pass
            }
        }
    }
}

impl JwtTenant {
    fn names_tenant(&self, token: &Token<'_>) -> Result<bool, Problem> {
        // Checking a signature costs most, so it comes last.
        if token.unverified().pointer(&self.claim).and_then(Value::as_str).as_deref() != Some(&*self.tenant) {
            return Ok(false);
        }
        let Some(key) = &self.key else { return Ok(true) };
        Ok(jwt::is_current(token.verify(key)?, host::now_ms() as f64 / 1000.0))
    }
}

filter!(JwtTenant);

#[cfg(test)]
mod tests {
    use super::*;
    use mirrord_filter_sdk::testing;

    /// `{"org": {"id": "acme"}, "tenant": "acme"}`, signed with HS256 and the secret "secret".
    const TOKEN: &str =
        "eyJhbGciOiJIUzI1NiJ9.eyJvcmciOnsiaWQiOiJhY21lIn0sInRlbmFudCI6ImFjbWUifQ.G6niQep0TqFVNktyrkonYvNNU_avwqbAVPuehLXP5wg";

    fn run(config: &str, authorization: &str) -> testing::Outcome {
        let mut filter = testing::configure::<JwtTenant>(config).unwrap();
        testing::Request::get("/").header("Authorization", authorization).run(&mut filter)
    }

    #[test]
    fn a_token_of_the_tenant_is_stolen() {
        for config in [
            r#"{"tenant": "acme"}"#,
            r#"{"tenant": "acme", "claim": "/org/id"}"#,
            r#"{"tenant": "acme", "secret": "secret"}"#,
            r#"{"tenant": "acme", "jwk": {"kty": "oct", "k": "c2VjcmV0"}}"#,
        ] {
            assert_eq!(run(config, &format!("Bearer {TOKEN}")).verdict, Verdict::Steal, "{config}");
        }
    }

    #[test]
    fn every_other_token_passes() {
        for config in [r#"{"tenant": "other"}"#, r#"{"tenant": "acme", "claim": "/org"}"#, r#"{"tenant": "acme", "claim": "/sub"}"#] {
            assert_eq!(run(config, &format!("Bearer {TOKEN}")).verdict, Verdict::Pass, "{config}");
        }
        for authorization in ["", "Bearer", "Basic YTpi", "Bearer a.b.c", &format!("Bearer x{TOKEN}")] {
            assert_eq!(run(r#"{"tenant": "acme"}"#, authorization).verdict, Verdict::Pass, "{authorization}");
        }
    }

    #[test]
    fn with_a_key_a_made_up_token_passes_and_the_reason_does_not_tell_it() {
        let outcome = run(r#"{"tenant": "acme", "secret": "another"}"#, &format!("Bearer {TOKEN}"));
        assert_eq!((outcome.verdict, outcome.reason.as_deref()), (Verdict::Pass, Some("the token's signature does not fit the key")));
        let rsa = r#"{"tenant": "acme", "jwk": {"kty": "RSA", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ", "e": "AQAB"}}"#;
        assert_eq!(run(rsa, &format!("Bearer {TOKEN}")).reason.as_deref(), Some("the token's algorithm is not the key's"));
    }

    /// `{"tenant": "acme", "exp": 1767225660}`: a minute after the tests' time.
    const SHORT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJ0ZW5hbnQiOiJhY21lIiwiZXhwIjoxNzY3MjI1NjYwfQ.vCGeI5Pc1bgNrjYqILeQ5k_p7B_7nOQJfRGvjbSPfCY";

    #[test]
    fn with_a_key_an_expired_token_passes() {
        let run = |config| run(config, &format!("Bearer {SHORT}")).verdict;
        let (checked, unchecked) = (r#"{"tenant": "acme", "secret": "secret"}"#, r#"{"tenant": "acme"}"#);
        assert_eq!((run(checked), run(unchecked)), (Verdict::Steal, Verdict::Steal));
        testing::advance(std::time::Duration::from_secs(60));
        assert_eq!((run(checked), run(unchecked)), (Verdict::Pass, Verdict::Steal));
    }

    #[test]
    fn a_bad_config_is_refused() {
        for (config, says) in [
            ("{}", "lacks \"tenant\""),
            (r#"{"tenant": "a", "claim": "sub"}"#, "as \"/sub\""),
            (r#"{"tenant": "a", "secret": ""}"#, "\"secret\" is empty"),
            (r#"{"tenant": "a", "public_key": "x"}"#, "no RSA public key"),
            (r#"{"tenant": "a", "jwk": {}}"#, "no RSA or oct key"),
            (r#"{"tenant": "a", "jwk": {"kty": "oct", "k": "AA"}, "secret": "s"}"#, "only one of"),
            (r#"{"tenant": "a", "key": "x"}"#, "unknown field \"key\""),
        ] {
            let why = testing::configure::<JwtTenant>(config).err().unwrap_or_default();
            assert!(why.contains(says), "{config}: {why}");
        }
    }
}
