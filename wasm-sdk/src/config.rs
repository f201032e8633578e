//! A filter's config as a JSON object: each field asked for by name, and a complaint that a user can act on for what is
//! missing, misspelt or of another type. Every complaint ends with your example.
//!
//! ```
//! use mirrord_filter_sdk::config::Fields;
//!
//! # fn read(config: &[u8]) -> Result<(String, u64), String> {
//! let mut fields = Fields::read(config, r#"{"name": "x-user", "value": "me"}"#)?;
//! let name = fields.text("name")?;
//! let times = fields.optional_u64("times")?.unwrap_or(1);
//! fields.no_others()?;
//! # Ok((name, times)) }
//! # assert!(read(br#"{"nam": "x"}"#).is_err());
//! ```

use crate::json::{self, Kind, Value};

/// The fields of a config.
pub struct Fields<'a> {
    object: Value<'a>,
    example: &'static str,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// Reads the config; `example` is one that works.
    ///
    /// # Errors
    /// No config, or one that is not a JSON object.
    pub fn read(config: &'a [u8], example: &'static str) -> Result<Self, String> {
        if config.is_empty() {
            return Err(format!("this filter needs a config, for instance {example}"));
        }
        let object = json::parse(config).map_err(|e| format!("the config is not JSON ({e}); it looks like {example}"))?;
        if object.kind() != Kind::Object {
            return Err(format!("the config is not a JSON object; it looks like {example}"));
        }
        Ok(Fields { object, example, known: Vec::new() })
    }

    /// A complaint of your own, with the example.
    pub fn wrong(&self, what: impl std::fmt::Display) -> String {
        format!("{what}; it looks like {}", self.example)
    }

    /// Any value; nothing if the field is missing.
    pub fn value(&mut self, name: &'static str) -> Option<Value<'a>> {
        self.known.push(name);
        self.object.get(name)
    }

    /// A string.
    ///
    /// # Errors
    /// If it is missing or something else.
    pub fn text(&mut self, name: &'static str) -> Result<String, String> {
        self.optional_text(name)?.ok_or_else(|| self.lacks(name))
    }

    /// A string, if the field is there.
    ///
    /// # Errors
    /// If it is something else.
    pub fn optional_text(&mut self, name: &'static str) -> Result<Option<String>, String> {
        self.optional(name, "a string", |value| Some(value.as_str()?.into_owned()))
    }

    /// A number.
    ///
    /// # Errors
    /// If it is missing or something else.
    pub fn number(&mut self, name: &'static str) -> Result<f64, String> {
        self.optional(name, "a number", Value::as_f64)?.ok_or_else(|| self.lacks(name))
    }

    /// A whole number, if the field is there.
    ///
    /// # Errors
    /// If it is something else.
    pub fn optional_u64(&mut self, name: &'static str) -> Result<Option<u64>, String> {
        self.optional(name, "a whole number", Value::as_u64)
    }

    /// Strings, if the field is there; a single string counts as a list of one.
    ///
    /// # Errors
    /// If it is something else.
    pub fn optional_texts(&mut self, name: &'static str) -> Result<Option<Vec<String>>, String> {
        self.optional(name, "a string or a list of strings", |value| match value.kind() {
            Kind::String => Some(vec![value.as_str()?.into_owned()]),
            Kind::Array => value.items().map(|item| item.as_str().map(Into::into)).collect(),
            _ => None,
        })
    }

    /// Refuses what nobody asked for: a misspelt field would otherwise do nothing, silently.
    ///
    /// # Errors
    /// The first such field.
    pub fn no_others(&self) -> Result<(), String> {
        match self.object.members().find(|(name, _)| !self.known.contains(&&**name)) {
            Some((name, _)) => Err(self.wrong(format_args!("the config has an unknown field \"{name}\""))),
            None => Ok(()),
        }
    }

    /// What to say of a missing field.
    pub fn lacks(&self, name: &str) -> String {
        self.wrong(format_args!("the config lacks \"{name}\""))
    }

    fn optional<T>(&mut self, name: &'static str, what: &str, read: impl Fn(Value<'a>) -> Option<T>) -> Result<Option<T>, String> {
        match self.value(name) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => Err(self.wrong(format_args!("\"{name}\" in the config is not {what}"))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"{"name": "x", "share": 10}"#;

    type Read = (String, f64, Option<u64>, Option<Vec<String>>);

    fn read(config: &str) -> Result<Read, String> {
        let mut fields = Fields::read(config.as_bytes(), EXAMPLE)?;
        let read = (fields.text("name")?, fields.number("share")?, fields.optional_u64("times")?, fields.optional_texts("paths")?);
        fields.no_others()?;
        Ok(read)
    }

    #[test]
    fn fields_are_read_by_name_and_type() {
        assert_eq!(read(EXAMPLE), Ok(("x".into(), 10.0, None, None)));
        let all = r#"{"paths": ["/a", "/b"], "times": 3, "share": 2.5, "name": ""}"#;
        assert_eq!(read(all), Ok(("".into(), 2.5, Some(3), Some(vec!["/a".into(), "/b".into()]))));
        assert_eq!(read(r#"{"name": "x", "share": 1, "paths": "/a"}"#).unwrap().3.unwrap(), ["/a"]);
    }

    #[test]
    fn complaints_say_what_is_wrong_and_how_it_looks() {
        for (config, says) in [
            ("", "needs a config"),
            ("x=1", "not JSON (a value is expected at byte 0)"),
            ("[]", "not a JSON object"),
            ("{}", "lacks \"name\""),
            (r#"{"name": 3}"#, "\"name\" in the config is not a string"),
            (r#"{"name": "x", "share": "10"}"#, "\"share\" in the config is not a number"),
            (r#"{"name": "x", "share": 1, "times": -1}"#, "\"times\" in the config is not a whole number"),
            (r#"{"name": "x", "share": 1, "paths": [1]}"#, "\"paths\" in the config is not a string or a list of strings"),
            (r#"{"name": "x", "share": 1, "tims": 1}"#, "unknown field \"tims\""),
        ] {
            let why = read(config).unwrap_err();
            assert!(why.contains(says) && why.ends_with(EXAMPLE), "{config}: {why}");
        }
    }
}
