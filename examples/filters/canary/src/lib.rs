//! Steals a percentage of users, always the same ones.
//!
//! Config: `{"percent": 5, "key": "cookie:uid", "salt": "new-cart"}`; see README.md.

use std::borrow::Cow;

use mirrord_filter_sdk::config::Fields;
use mirrord_filter_sdk::percent::Percent;
use mirrord_filter_sdk::{cookies, filter, query, Filter, Request, Verdict};

const EXAMPLE: &str = r#"{"percent": 5, "key": "cookie:uid", "salt": "new-cart"}"#;

/// Which users are ours.
pub struct Canary {
    percent: Percent,
    key: Key,
}

/// What tells one user from another.
enum Key {
    Header(String),
    Cookie(String),
    Query(String),
    Client,
}

impl Filter for Canary {
    fn from_config(config: &[u8]) -> Result<Self, String> {
        let mut fields = Fields::read(config, EXAMPLE)?;
        let (percent, key) = (fields.number("percent")?, fields.text("key")?);
        let salt = fields.optional_text("salt")?.unwrap_or_default();
        fields.no_others()?;
        let percent = Percent::new(percent, salt).ok_or_else(|| fields.wrong("\"percent\" is not between 0 and 100"))?;
        let key = match key.split_once(':') {
            Some(("header", name)) if !name.is_empty() => Key::Header(name.into()),
            Some(("cookie", name)) if !name.is_empty() => Key::Cookie(name.into()),
            Some(("query", name)) if !name.is_empty() => Key::Query(name.into()),
            None if key == "client" => Key::Client,
            _ => return Err(fields.wrong("\"key\" is none of \"header:NAME\", \"cookie:NAME\", \"query:NAME\" and \"client\"")),
        };
        Ok(Canary { percent, key })
    }

    fn on_request(&mut self, request: &mut Request) -> Verdict {
        // Without a key nobody knows who it is: a guess would give one user two versions.
        if !self.key.of(request).is_some_and(|key| self.percent.takes(&key)) {
            return Verdict::Pass;
        }
        request.set_response_header("x-mirrord-canary", "yes");
        request.reason("its key is among the percentage");
        Verdict::Steal
    }
}

impl Key {
    fn of<'a>(&self, request: &'a Request) -> Option<Cow<'a, [u8]>> {
        let key = match self {
            Key::Header(name) => Cow::Borrowed(request.header(name)?),
            Key::Cookie(name) => Cow::Borrowed(cookies::get(request, name)?),
            Key::Query(name) => query::get(request.path(), name)?,
            // Without the port, which every connection has its own of.
            Key::Client => Cow::Borrowed(request.client().rsplit_once(':')?.0.as_bytes()),
        };
        (!key.is_empty()).then_some(key)
    }
}

filter!(Canary);

#[cfg(test)]
mod tests {
    use super::*;
    use mirrord_filter_sdk::testing;

    fn canary(percent: &str, key: &str) -> Canary {
        testing::configure(format!(r#"{{"percent": {percent}, "key": "{key}", "salt": "new-cart"}}"#)).unwrap()
    }

    fn request(key: &str, user: u32) -> testing::Request {
        match key {
            "header:x-user" => testing::Request::get("/").header("X-User", user.to_string()),
            "cookie:uid" => testing::Request::get("/").header("Cookie", format!("a=b; uid={user}")),
            "query:user" => testing::Request::get(format!("/?user={user}")),
            _ => testing::Request::get("/").client(&format!("[2001:db8::{user:x}]:{}", 1024 + user)),
        }
    }

    #[test]
    fn about_so_many_users_are_stolen_and_always_the_same() {
        for key in ["header:x-user", "cookie:uid", "query:user", "client"] {
            let stolen = |filter: &mut Canary| {
                (0..2_000).filter(|&user| request(key, user).run(filter).verdict == Verdict::Steal).collect::<Vec<_>>()
            };
            let tenth = stolen(&mut canary("10", key));
            assert!((150..250).contains(&tenth.len()), "{key}: {}", tenth.len());
            // Another instance, later, with a larger share.
            let more = stolen(&mut canary("20.5", key));
            assert!(tenth.iter().all(|user| more.contains(user)), "{key}");
            assert!(stolen(&mut canary("0", key)).is_empty());
            assert_eq!(stolen(&mut canary("100", key)).len(), 2_000);
        }
    }

    #[test]
    fn the_port_of_a_client_does_not_matter() {
        let mut half = canary("50", "client");
        let mut of = |port: u16| testing::Request::get("/").client(&format!("192.0.2.9:{port}")).run(&mut half).verdict;
        let first = of(1024);
        assert!((1025..1100).all(|port| of(port) == first));
    }

    #[test]
    fn whoever_has_no_key_passes() {
        for key in ["header:x-user", "cookie:uid", "query:user"] {
            for request in [testing::Request::get("/"), testing::Request::get("/?user=").header("x-user", "").header("cookie", "uid=")] {
                assert_eq!(request.run(&mut canary("100", key)).verdict, Verdict::Pass, "{key}");
            }
        }
    }

    #[test]
    fn a_bad_config_is_refused() {
        for (config, says) in [
            (r#"{"percent": 101, "key": "client"}"#, "not between 0 and 100"),
            (r#"{"percent": 5}"#, "lacks \"key\""),
            (r#"{"percent": 5, "key": "cookie"}"#, "none of"),
            (r#"{"percent": 5, "key": "cookie:"}"#, "none of"),
            (r#"{"percent": 5, "key": "client", "seed": "x"}"#, "unknown field \"seed\""),
        ] {
            let why = testing::configure::<Canary>(config).err().unwrap_or_default();
            assert!(why.contains(says) && why.contains(EXAMPLE), "{config}: {why}");
        }
    }
}
