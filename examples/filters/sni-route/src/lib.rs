//! Steals TLS connections by the server name that they ask for, without opening them.
//!
//! Config: `{"names": ["me.shop.example", "*.dev.shop.example"]}`; see README.md.

use mirrord_filter_sdk::config::Fields;
use mirrord_filter_sdk::{filter, Connection, Filter, Request, Verdict};

const EXAMPLE: &str = r#"{"names": ["me.shop.example", "*.dev.shop.example"]}"#;

/// Which names are ours.
pub struct SniRoute {
    names: Vec<String>,
    /// Nothing for any.
    alpn: Option<String>,
}

impl Filter for SniRoute {
    fn from_config(config: &[u8]) -> Result<Self, String> {
        let mut fields = Fields::read(config, EXAMPLE)?;
        let names = fields.optional_texts("names")?.filter(|names| !names.is_empty()).ok_or_else(|| fields.lacks("names"))?;
        let alpn = fields.optional_text("alpn")?;
        fields.no_others()?;
        if let Some(name) =
            names.iter().find(|name| name.strip_prefix("*.").unwrap_or(name).is_empty() || name.trim_start_matches("*.").contains('*'))
        {
            return Err(fields.wrong(format_args!("\"{name}\" is neither a name nor \"*.\" before one")));
        }
        Ok(SniRoute { names: names.iter().map(|name| name.to_ascii_lowercase()).collect(), alpn })
    }

    /// Whatever is HTTP without TLS.
    fn on_request(&mut self, _: &mut Request) -> Verdict {
        Verdict::Pass
    }

    fn on_connection(&mut self, connection: &mut Connection) -> Verdict {
        let Some(name) = connection.sni().map(|name| name.trim_end_matches('.').to_ascii_lowercase()) else { return Verdict::Pass };
        let offered = self.alpn.as_ref().is_none_or(|alpn| connection.alpn().any(|own| own == alpn.as_bytes()));
        if !offered || !self.names.iter().any(|own| fits(own, &name)) {
            return Verdict::Pass;
        }
        connection.reason("it asks for a configured name");
        Verdict::Steal
    }
}

/// `*.a.example` stands for one label more, as in certificates.
fn fits(own: &str, name: &str) -> bool {
    match own.strip_prefix("*.") {
        Some(parent) => name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
        None => name == own,
    }
}

filter!(SniRoute, connections);

#[cfg(test)]
mod tests {
    use super::*;
    use mirrord_filter_sdk::testing;

    fn verdict(config: &str, sni: &str, alpn: &str) -> Verdict {
        testing::Connection::new(b"\x16\x03\x01").tls(sni, alpn).run(&mut testing::configure::<SniRoute>(config).unwrap()).0
    }

    #[test]
    fn connections_are_stolen_by_name() {
        for name in ["me.shop.example", "ME.Shop.Example", "me.shop.example.", "a.dev.shop.example"] {
            assert_eq!(verdict(EXAMPLE, name, "h2,http/1.1"), Verdict::Steal, "{name}");
        }
        for name in [
            "",
            "shop.example",
            "you.shop.example",
            "dev.shop.example",
            "a.b.dev.shop.example",
            ".dev.shop.example",
            "xme.shop.example",
            "me.shop.example.evil",
        ] {
            assert_eq!(verdict(EXAMPLE, name, "h2"), Verdict::Pass, "{name}");
        }
    }

    #[test]
    fn and_by_protocol_if_asked_for() {
        let config = r#"{"names": "a.example", "alpn": "h2"}"#;
        assert_eq!(verdict(config, "a.example", "http/1.1,h2"), Verdict::Steal);
        assert_eq!(verdict(config, "a.example", "http/1.1"), Verdict::Pass);
        assert_eq!(verdict(config, "a.example", ""), Verdict::Pass);
    }

    #[test]
    fn everything_else_passes() {
        let mut filter = testing::configure::<SniRoute>(EXAMPLE).unwrap();
        assert_eq!(testing::Connection::new("SSH-2.0-x\r\n").run(&mut filter).0, Verdict::Pass);
        assert_eq!(testing::Request::get("/").header("host", "me.shop.example").run(&mut filter).verdict, Verdict::Pass);
    }

    #[test]
    fn a_bad_config_is_refused() {
        for (config, says) in [
            ("{}", "lacks \"names\""),
            (r#"{"names": []}"#, "lacks \"names\""),
            (r#"{"names": ["*."]}"#, "neither a name"),
            (r#"{"names": ["a.*.example"]}"#, "neither a name"),
            (r#"{"names": "a", "port": 1}"#, "unknown field \"port\""),
        ] {
            let why = testing::configure::<SniRoute>(config).err().unwrap_or_default();
            assert!(why.contains(says) && why.contains(EXAMPLE), "{config}: {why}");
        }
    }
}
