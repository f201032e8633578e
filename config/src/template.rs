//! Templates in config files: the file's text is rendered in the language of Tera (`{{ }}`, `{% %}`, `{# #}`) before it is read.
//!
//! ```text
//! text ── key of the file, itself rendered ──► scope ──► Tera ──► text without templates
//! ```
//!
//! | name | value |
//! |---|---|
//! | `key` | the session's key: flag, variable, `key` in the file, else random |
//! | `git_branch` | the branch; not there if there is none |
//! | `get_env(name=, default=)` | a variable of the environment |
//! | `now(timestamp=)`, `get_random(start=, end=)` | the time (UTC), a number |
//!
//! Filters are Tera's own, with `slugify`, `urlencode` and `urlencode_strict`. Nothing is escaped for HTML.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::Value;
use tera::{Context, Error, ErrorKind, Kwargs, State, Tera, TeraResult};

use crate::file::{self, FileError, Format};

/// What templates can see; taken once, so that nothing here reads clock or environment.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// The session's key, from flag or variable.
    pub key: Option<String>,
    /// The branch that is checked out.
    pub git_branch: Option<String>,
    /// The environment.
    pub variables: HashMap<String, String>,
    /// Seconds since 1970.
    pub now: u64,
    /// The same moment as RFC 3339 has it.
    pub now_text: String,
    /// Where random numbers begin.
    pub seed: u64,
}

/// A file's text with nothing left to render.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// The session's key.
    pub key: String,
    /// A line for the user.
    pub warning: Option<String>,
}

/// Renders a file.
pub fn render(text: &str, format: Format, scope: &Scope) -> Result<Rendered, FileError> {
    let random = format!("{:05x}", next(&AtomicU64::new(scope.seed)) & 0xf_ffff);
    let is_plain = !["{{", "{%", "{#"].iter().any(|mark| text.contains(mark));
    let mut warning = None;
    let key = match (&scope.key, file::value(text, format)) {
        (Some(key), _) => key.clone(),
        (None, Ok(value)) => match value.get("key") {
            Some(Value::String(key)) => one(key, scope, None)?,
            _ => random,
        },
        // A file that only a template makes whole cannot be read before it is rendered.
        (None, Err(_)) => {
            let names_key = text.lines().any(|line| line.trim_start().trim_start_matches(['"', '\'', '{', ' ']).starts_with("key"));
            warning = (names_key && !is_plain).then(|| {
                format!("the file's `key` could not be read before its templates are rendered, and is `{random}` in them; use single quotes in templates")
            });
            random
        }
    };
    let text = if is_plain { text.to_owned() } else { one(text, scope, Some(&key))? };
    Ok(Rendered { text, key, warning })
}

/// Renders one text; without `key` for the key itself.
fn one(text: &str, scope: &Scope, key: Option<&str>) -> Result<String, FileError> {
    let mut tera = Tera::new();
    functions(&mut tera, scope);
    let mut context = Context::new();
    key.inspect(|key| context.insert("key", key));
    scope.git_branch.as_ref().inspect(|branch| context.insert("git_branch", branch));
    tera.render_str(text, &context, false).map_err(|error| failure(&error, scope))
}

fn functions(tera: &mut Tera, scope: &Scope) {
    let variables = Arc::new(scope.variables.clone());
    tera.register_function("get_env", move |arguments: Kwargs, _: &State<'_>| -> TeraResult<tera::Value> {
        let name: String = arguments.must_get("name")?;
        match (variables.get(&name), arguments.get::<tera::Value>("default")?) {
            (Some(value), _) => Ok(value.clone().into()),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(Error::message(format!("the variable {name} is not set"))),
        }
    });
    let (now, now_text) = (scope.now, scope.now_text.clone());
    tera.register_function("now", move |arguments: Kwargs, _: &State<'_>| -> TeraResult<tera::Value> {
        let as_number: bool = arguments.get("timestamp")?.unwrap_or_default();
        Ok(if as_number { now.into() } else { now_text.clone().into() })
    });
    let state = AtomicU64::new(scope.seed);
    tera.register_function("get_random", move |arguments: Kwargs, _: &State<'_>| -> TeraResult<i64> {
        let (start, end): (i64, i64) = (arguments.get("start")?.unwrap_or_default(), arguments.must_get("end")?);
        match u64::try_from(i128::from(end) - i128::from(start)) {
            Ok(span @ 1..) => Ok(start.wrapping_add_unsigned(next(&state) % span)),
            _ => Err(Error::message(format!("get_random(start={start}, end={end}) has nothing to choose from"))),
        }
    });
    tera.register_filter("slugify", |text: &str, _: Kwargs, _: &State<'_>| slug(text));
    tera.register_filter("urlencode", |text: &str, _: Kwargs, _: &State<'_>| percent(text, b"-_.~/"));
    tera.register_filter("urlencode_strict", |text: &str, _: Kwargs, _: &State<'_>| percent(text, b""));
}

/// SplitMix64: keys and ports to try need no better one.
fn next(state: &AtomicU64) -> u64 {
    let mut value = state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// Lower-case letters, digits, and one `-` for what lies between.
fn slug(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let words = lower.split(|character: char| !character.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

fn percent(text: &str, kept: &[u8]) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || kept.contains(&byte) {
            out.push(byte.into());
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

fn failure(error: &Error, scope: &Scope) -> FileError {
    let text = error.to_string();
    let (problem, line) = match error.kind() {
        ErrorKind::SyntaxError(report) | ErrorKind::RenderingError(report) => (report.message(), Some(report.span().start_line)),
        // A report in plain text: what, then ` --> NAME:LINE:COLUMN`, then the source.
        _ => {
            let place = text.split_once(" --> ").and_then(|(_, place)| place.split(':').nth(1)?.parse().ok());
            (text.lines().next().unwrap_or_default().trim_start_matches("error: "), place)
        }
    };
    let place = line.map_or_else(String::new, |line| format!(" in line {line}"));
    let help = if problem.contains("git_branch") && scope.git_branch.is_none() {
        "there is no branch here; write {{ git_branch | default(value='main') }}, or set MIRRORD_BRANCH_NAME"
    } else if problem.contains("is not set") {
        "set it, or write {{ get_env(name='…', default='…') }}"
    } else {
        "templates know key, git_branch, get_env(name='X'), now(), get_random(start=0, end=9), and Tera's filters"
    };
    FileError { at: String::new(), problem: format!("a template{place}: {}", problem.trim().replace('\n', " ")), help: help.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        let variables = [("NS".to_owned(), "shop".to_owned())].into();
        Scope {
            git_branch: Some("fix/tax".into()),
            variables,
            now: 86_400,
            now_text: "1970-01-02T00:00:00Z".into(),
            seed: 7,
            ..Scope::default()
        }
    }

    fn rendered(text: &str) -> Result<String, FileError> {
        render(text, Format::Yaml, &scope()).map(|rendered| rendered.text)
    }

    #[test]
    fn what_files_in_the_field_use() {
        let key = Scope { key: Some("me".into()), ..scope() };
        let text = render("a: \"^baggage: .*mirrord-session={{ key }}\"", Format::Yaml, &key).unwrap().text;
        assert_eq!(text, "a: \"^baggage: .*mirrord-session=me\"");
        for (template, expected) in [
            ("{{ get_env(name='NS') }}-{{ get_env(name='NONE', default='dev') }}", "shop-dev"),
            ("{{ git_branch | replace(from='/', to='-') | upper }}", "FIX-TAX"),
            ("{{ git_branch | slugify }} {{ 'É b/c' | urlencode }} {{ 'a/b' | urlencode_strict }}", "fix-tax %C3%89%20b/c a%2Fb"),
            ("{% if get_env(name='CI', default='') == '' %}local{% else %}ci{% endif %}{# said to nobody #}", "local"),
            ("{% set parts = git_branch | split(pat='/') %}{{ parts | last }}", "tax"),
            ("{{ missing | default(value='<x> & y') }}", "<x> & y"),
            ("{{ now(timestamp=true) }} {{ now() }}", "86400 1970-01-02T00:00:00Z"),
        ] {
            assert_eq!(rendered(template).unwrap(), expected, "{template}");
        }
        for _ in 0..100 {
            let number: i64 = rendered("{{ get_random(start=3, end=5) }}").unwrap().parse().unwrap();
            assert!((3..5).contains(&number));
        }
    }

    #[test]
    fn the_key_is_that_of_the_flag_else_of_the_file_else_random() {
        let text = "key: \"{{ git_branch | default(value='shared') | replace(from='/', to='-') }}\"\nfeature: { a: \"{{ key }}\" }";
        let own = render(text, Format::Yaml, &scope()).unwrap();
        assert!(own.key == "fix-tax" && own.text.ends_with("\"fix-tax\" }"), "{own:?}");
        let detached = Scope { git_branch: None, ..scope() };
        assert_eq!(render(text, Format::Yaml, &detached).unwrap().key, "shared");
        assert_eq!(render(text, Format::Yaml, &Scope { key: Some("k".into()), ..scope() }).unwrap().key, "k");
        let random = render("{}", Format::Json, &scope()).unwrap();
        assert!(random.key.len() == 5 && random.key.bytes().all(|byte| byte.is_ascii_hexdigit()) && random.warning.is_none());
        let hidden = render("{\"key\": \"{{ git_branch | default(value=\"x\") }}\"}", Format::Json, &scope()).unwrap();
        assert!(hidden.warning.unwrap().contains("single quotes"));
    }

    #[test]
    fn what_is_wrong_says_where_and_what_to_do() {
        for (template, line, help) in [
            ("a: 1\nb: {{ nothing }}", "line 2", "git_branch"),
            ("{{ get_env(name='NONE') }}", "NONE is not set", "default"),
            ("{{ get_random(start=5, end=5) }}", "nothing to choose", ""),
            ("{{ 'a' | nonsense }}", "line 1", "filters"),
            ("{% if %}", "line 1", ""),
            ("key: \"{{ key }}\"", "key", ""),
        ] {
            let error = rendered(template).unwrap_err();
            assert!(error.problem.contains(line) && error.help.contains(help), "{template}: {error}; {}", error.help);
        }
        let error = render("{{ git_branch }}", Format::Yaml, &Scope { git_branch: None, ..scope() }).unwrap_err();
        assert!(error.help.contains("MIRRORD_BRANCH_NAME"), "{error}");
    }
}
