//! The container's environment for the program: which of its variables, and what is changed of them. Order: the container's that pass
//! the filter; the env file over them; `mapping`; `override`; all this over this machine's own; then `unset`.

use std::{collections::BTreeMap, path::PathBuf};

use fancy_regex::Regex;
use serde_json::Value;
use thiserror::Error;

use crate::file::{FileError, error, present, unknown};

/// Never the container's, whatever is asked for: they describe its file system and runtime.
const NEVER: &[&str] = &[
    "PATH",
    "HOME",
    "HOMEPATH",
    "PWD",
    "CLASSPATH",
    "CATALINA_HOME",
    "JAVA_EXE",
    "JAVA_HOME",
    "JAVA_TOOL_OPTIONS",
    "_JAVA_OPTIONS",
    "PYTHONPATH",
    "GOPATH",
    "GOMODCACHE",
    "RUST_LOG",
    "MIRRORD_LOG",
    "RUBYLIB",
    "RUBYOPT",
    "GEM_HOME",
    "GEM_PATH",
    "DOTNET_EnableDiagnostics",
    "DOTNET_STARTUP_HOOKS",
    "BUNDLER_VERSION",
    "BUNDLE_APP_CONFIG",
    "BUNDLE_BIN_PATH",
    "BUNDLE_FORCE_RUBY_PLATFORM",
    "BUNDLE_GEMFILE",
    "BUNDLE_GEM_PATH",
    "BUNDLE_PATH",
    "BUNDLE_WITHOUT",
    "BUNDLER_ORIG_BUNDLER_ORIG_MANPATH",
    "BUNDLER_ORIG_BUNDLER_VERSION",
    "BUNDLER_ORIG_BUNDLE_BIN_PATH",
    "BUNDLER_ORIG_BUNDLE_GEMFILE",
    "BUNDLER_ORIG_GEM_HOME",
    "BUNDLER_ORIG_GEM_PATH",
    "BUNDLER_ORIG_MANPATH",
    "BUNDLER_ORIG_PATH",
    "BUNDLER_ORIG_RB_USER_INSTALL",
    "BUNDLER_ORIG_RUBYLIB",
];

/// Which of the container's variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// All.
    #[default]
    All,
    /// Only these.
    Include(Vec<String>),
    /// All but these.
    Exclude(Vec<String>),
}

/// What is wanted of the container's environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// Which variables; names, with `*` and `?`.
    pub which: Which,
    /// Set to these values.
    pub overrides: BTreeMap<String, String>,
    /// Removed from the program, in any case of letters.
    pub unset: Vec<String>,
    /// Pattern of names → value.
    pub mapping: Vec<(String, String)>,
    /// A dotenv file.
    pub file: Option<PathBuf>,
}

/// What the command line and variables say of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvironmentFlags {
    /// `--override-env-vars-include`.
    pub include: Option<String>,
    /// `--override-env-vars-exclude`.
    pub exclude: Option<String>,
    /// `--env-file`.
    pub file: Option<PathBuf>,
}

/// Why nothing comes of it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EnvironmentError {
    /// From whatever sources.
    #[error("env.include and env.exclude are both given")]
    Both,
    /// A key of `mapping`.
    #[error("env.mapping: `{0}` is no pattern: {1}")]
    Pattern(String, String),
    /// A line of the env file.
    #[error("line {0} of the env file is no NAME=VALUE")]
    Line(usize),
}

impl EnvironmentError {
    /// The next step.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            Self::Both => "leave out one of them; flags, variables and the config file count together (`env: false` is an exclude of *)",
            Self::Pattern(..) => "write a regular expression that names of variables match, for instance \".+_TIMEOUT$\"",
            Self::Line(_) => "write NAME=VALUE, with quotes around a value that has spaces or #; lines that begin with # say nothing",
        }
    }
}

/// What the program starts with beyond this machine's environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Names and values, each name once.
    pub set: BTreeMap<String, String>,
    /// Variables asked for by name that never come from the container.
    pub refused: Vec<String>,
}

/// Reads `feature.env`.
pub(crate) fn read(value: &Value) -> Result<Environment, FileError> {
    const AT: &str = "feature.env";
    const KEYS: [&str; 7] = ["include", "exclude", "override", "unset", "mapping", "env_file", "load_from_process"];
    let mut environment = Environment::default();
    let members = match value {
        Value::Bool(true) => return Ok(environment),
        Value::Bool(false) => {
            environment.which = Which::Exclude(vec!["*".into()]);
            return Ok(environment);
        }
        Value::Object(members) => members,
        _ => return Err(error(AT, "it is neither true, false nor an object", r#"it looks like {"include": "DB_*"}"#)),
    };
    if let Some(key) = members.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(unknown(&format!("{AT}.{key}"), key, &KEYS));
    }
    let list = |key: &str| {
        let at = format!("{AT}.{key}");
        let text = |value: &Value| value.as_str().map(split);
        let names = match present(members, key) {
            None => return Ok(None),
            Some(Value::Array(list)) => list.iter().map(text).collect::<Option<Vec<_>>>().map(|lists| lists.concat()),
            Some(value) => text(value),
        };
        names.map(Some).ok_or_else(|| error(at, "it is no list of names", r#"write ["DB_*", "REGION"], or "DB_*;REGION""#))
    };
    let pairs = |key: &str| -> Result<Vec<(String, String)>, FileError> {
        let at = format!("{AT}.{key}");
        let wrong = |at: String| error(at, "it is no text", r#"write {"NAME": "value"}"#);
        match present(members, key) {
            None => Ok(Vec::new()),
            Some(Value::Object(members)) => members
                .iter()
                .map(|(name, value)| match value {
                    Value::String(text) => Ok((name.clone(), text.clone())),
                    _ => Err(wrong(format!("{at}.{name}"))),
                })
                .collect(),
            Some(_) => Err(wrong(at)),
        }
    };
    environment.which = which(list("include")?, list("exclude")?).map_err(|both| error(AT, both.to_string(), both.help()))?;
    environment.unset = list("unset")?.unwrap_or_default();
    environment.overrides = pairs("override")?.into_iter().collect();
    environment.mapping = pairs("mapping")?;
    patterns(&environment.mapping).map_err(|bad| error(format!("{AT}.mapping"), bad.to_string(), bad.help()))?;
    if let Some(value) = present(members, "env_file") {
        environment.file = Some(crate::kube::text(&format!("{AT}.env_file"), value)?.into());
    }
    Ok(environment)
}

fn split(text: &str) -> Vec<String> {
    text.split(';').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn which(include: Option<Vec<String>>, exclude: Option<Vec<String>>) -> Result<Which, EnvironmentError> {
    match (include, exclude) {
        (None, None) => Ok(Which::All),
        (Some(names), None) => Ok(Which::Include(names)),
        (None, Some(names)) => Ok(Which::Exclude(names)),
        (Some(_), Some(_)) => Err(EnvironmentError::Both),
    }
}

fn patterns(mapping: &[(String, String)]) -> Result<Vec<(Regex, &str)>, EnvironmentError> {
    let compile = |(pattern, value)| match Regex::new(pattern) {
        Ok(regex) => Ok((regex, value)),
        Err(error) => Err(EnvironmentError::Pattern(pattern.to_owned(), error.to_string())),
    };
    mapping.iter().map(|(pattern, value)| compile((pattern.as_str(), value.as_str()))).collect()
}

impl Environment {
    /// Flag before variable before what the file says, for each.
    pub fn resolve(flags: EnvironmentFlags, variable: impl Fn(&str) -> Option<String>, file: Self) -> Result<Self, EnvironmentError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let (mut include, mut exclude) = match file.which {
            Which::All => (None, None),
            Which::Include(names) => (Some(names), None),
            Which::Exclude(names) => (None, Some(names)),
        };
        if let Some(names) = flags.include.or_else(|| set("MIRRORD_OVERRIDE_ENV_VARS_INCLUDE")) {
            include = Some(split(&names));
        }
        if let Some(names) = flags.exclude.or_else(|| set("MIRRORD_OVERRIDE_ENV_VARS_EXCLUDE")) {
            exclude = Some(split(&names));
        }
        let from = flags.file.or_else(|| set("MIRRORD_OVERRIDE_ENV_VARS_FILE").map(PathBuf::from)).or(file.file);
        Ok(Self { which: which(include, exclude)?, file: from, ..file })
    }

    /// What the program gets. `pod`: the container's own; `file`: those of the env file.
    pub fn apply(&self, pod: Vec<(String, String)>, file: Vec<(String, String)>) -> Result<Applied, EnvironmentError> {
        let mut applied = Applied::default();
        let passes = |name: &str| match &self.which {
            Which::All => true,
            Which::Include(names) => names.iter().any(|pattern| is_like(pattern, name)),
            Which::Exclude(names) => !names.iter().any(|pattern| is_like(pattern, name)),
        };
        if let Which::Include(names) = &self.which {
            applied.refused = names.iter().filter(|name| NEVER.contains(&name.as_str())).cloned().collect();
        }
        let pod = pod.into_iter().filter(|(name, _)| passes(name) && !NEVER.contains(&name.as_str()));
        applied.set = pod.chain(file).collect();
        for (pattern, value) in patterns(&self.mapping)? {
            // One that gives up matches nothing.
            for (_, set) in applied.set.iter_mut().filter(|(name, _)| pattern.is_match(name).unwrap_or(false)) {
                *set = value.to_owned();
            }
        }
        applied.set.extend(self.overrides.clone());
        applied.set.retain(|name, _| !self.removes(name));
        Ok(applied)
    }

    /// Whether `unset` has this name, in any case of letters.
    #[must_use]
    pub fn removes(&self, name: &str) -> bool {
        self.unset.iter().any(|unset| unset.eq_ignore_ascii_case(name))
    }
}

/// `*` is any run of characters, `?` one; the whole name must be like it.
fn is_like(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut in_name, mut star) = (0, 0, None);
    while in_name < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, in_name));
                at += 1;
            }
            Some(one) if *one == '?' || *one == name[in_name] => (at, in_name) = (at + 1, in_name + 1),
            _ => match &mut star {
                // The last run takes one more.
                Some((from, taken)) => {
                    *taken += 1;
                    (at, in_name) = (*from + 1, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|rest| *rest == '*')
}

/// Reads a dotenv file: `NAME=VALUE`, perhaps behind `export`; values as they stand, or in quotes.
pub fn dotenv(text: &str) -> Result<Vec<(String, String)>, EnvironmentError> {
    let mut pairs = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = || EnvironmentError::Line(number + 1);
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=').ok_or_else(bad)?;
        let name = name.trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(bad());
        }
        pairs.push((name.to_owned(), unquoted(value.trim()).ok_or_else(bad)?));
    }
    Ok(pairs)
}

fn unquoted(value: &str) -> Option<String> {
    let comment = |rest: &str| rest.trim_start().is_empty() || rest.trim_start().starts_with('#');
    if let Some(rest) = value.strip_prefix('\'') {
        let (inner, rest) = rest.split_once('\'')?;
        return comment(rest).then(|| inner.to_owned());
    }
    if let Some(rest) = value.strip_prefix('"') {
        let (mut inner, mut characters) = (String::new(), rest.chars());
        loop {
            match characters.next()? {
                '"' => return comment(characters.as_str()).then_some(inner),
                '\\' => match characters.next()? {
                    'n' => inner.push('\n'),
                    't' => inner.push('\t'),
                    'r' => inner.push('\r'),
                    other => inner.push(other),
                },
                other => inner.push(other),
            }
        }
    }
    Some(value.split(" #").next().unwrap_or_default().trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn each_step_comes_in_its_order() {
        let file = serde_json::json!({
            "include": "DB_*;HOME;LOG?", "mapping": {".+_TIMEOUT$": "60"}, "override": {"DB_URL": "local", "GONE": "x"}, "unset": ["gone"],
        });
        let environment = read(&file).unwrap();
        let pod = pairs(&[("DB_URL", "x"), ("DB_TIMEOUT", "5"), ("LOG_LEVEL", "info"), ("HOME", "/root"), ("LOGS", "1")]);
        let applied = environment.apply(pod, pairs(&[("FILE_TIMEOUT", "1"), ("LOGS", "2")])).unwrap();
        let set: Vec<_> = applied.set.into_iter().collect();
        assert_eq!(set, pairs(&[("DB_TIMEOUT", "60"), ("DB_URL", "local"), ("FILE_TIMEOUT", "60"), ("LOGS", "2")]));
        assert_eq!(applied.refused, ["HOME"]);
    }

    #[test]
    fn without_a_filter_all_come_but_those_of_its_file_system_and_false_means_none() {
        let pod = pairs(&[("A", "1"), ("PATH", "/x"), ("BUNDLE_GEMFILE", "y")]);
        let all = Environment::default().apply(pod.clone(), Vec::new()).unwrap();
        assert_eq!(all.set.into_iter().collect::<Vec<_>>(), pairs(&[("A", "1")]));
        assert!(read(&false.into()).unwrap().apply(pod, Vec::new()).unwrap().set.is_empty());
    }

    #[test]
    fn both_filters_from_whatever_sources_are_one_too_many() {
        let file = read(&serde_json::json!({"include": ["A"]})).unwrap();
        let exclude = |name: &str| (name == "MIRRORD_OVERRIDE_ENV_VARS_EXCLUDE").then(|| "B".to_owned());
        assert_eq!(Environment::resolve(EnvironmentFlags::default(), exclude, file.clone()), Err(EnvironmentError::Both));
        let flags = EnvironmentFlags { include: Some("C;D".into()), ..EnvironmentFlags::default() };
        let resolved = Environment::resolve(flags, |_| None, file).unwrap();
        assert_eq!(resolved.which, Which::Include(vec!["C".into(), "D".into()]));
        assert_eq!(read(&serde_json::json!({"mapping": {"(": "x"}})).unwrap_err().at, "feature.env.mapping");
        assert!(read(&serde_json::json!({"inclde": "x"})).unwrap_err().help.contains("include"));
    }

    #[test]
    fn wildcards() {
        for (pattern, name) in [("*", ""), ("*", "A"), ("A*C", "ABBC"), ("A*C", "AC"), ("A?C", "ABC"), ("*_X*", "A_A_XY"), ("A", "A")] {
            assert!(is_like(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("", "A"), ("A", "AB"), ("A?", "A"), ("a", "A"), ("A*C", "ACD"), ("?", "")] {
            assert!(!is_like(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn dotenv_files() {
        let text = "# c\n\nA=1\nexport B = x y # note\nC='a # b'\nD=\"l1\\nl2 \\\"q\\\"\"  # note\nE=\nF=a#b\n";
        let expected = [("A", "1"), ("B", "x y"), ("C", "a # b"), ("D", "l1\nl2 \"q\""), ("E", ""), ("F", "a#b")];
        assert_eq!(dotenv(text).unwrap(), pairs(&expected));
        for (text, line) in [("A", 1), ("A=1\n=x", 2), ("A='x", 1), ("A B=1", 1), ("A=\"x\" y", 1)] {
            assert_eq!(dotenv(text), Err(EnvironmentError::Line(line)), "{text}");
        }
    }
}
