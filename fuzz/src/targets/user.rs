//! What a user writes: targets, ports, flags.

use std::ffi::OsString;

use mirrord_config::{Ambiguous, Config, File, FilterFlag, Flags, Format, Mode, Target};

/// A target is the same one again as it is printed; what is none says what to write instead.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<Target>() {
        Ok(target) => assert_eq!(target.to_string().parse(), Ok(target)),
        Err(error) => assert!(!error.to_string().is_empty() && !error.help().is_empty()),
    }
}

/// Each line is a flag: its first letter says which one; what follows a `{` is a config file. Whatever comes out names a program and ports that are all different.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (text, file) = text.find('{').map_or((text, ""), |at| text.split_at(at));
    for format in [Format::Toml, Format::Yaml] {
        if let Err(error) = File::parse(file, format) {
            assert!(!error.to_string().is_empty() && !error.help.is_empty());
        }
    }
    let file = File::parse(file, Format::Json).unwrap_or_default();
    let mut flags = Flags::default();
    let mut variables = Vec::new();
    for line in text.lines() {
        let mut letters = line.chars();
        let first = letters.next();
        let rest = letters.as_str().to_owned();
        match first {
            Some('t') => flags.target = Some(rest),
            Some('s') => flags.modes.push(Mode::Steal),
            Some('m') => flags.modes.push(Mode::Mirror),
            Some('f') => flags.filters.push(FilterFlag::Filter(rest.into())),
            Some('c') => flags.filters.push(FilterFlag::Config(rest)),
            Some('h') => flags.filters.push(FilterFlag::Condition("header_filter", rest)),
            Some('l') => flags.filters.push(FilterFlag::Limit(rest)),
            Some('p') => flags.ports.push(rest),
            Some('a') => flags.ambiguous = Some(Ambiguous::Refuse),
            Some('o') => flags.priority = rest.parse().ok(),
            Some('v') => variables.push(rest),
            Some('-') => flags.command.push(OsString::from(rest)),
            _ => {}
        }
    }
    let given = flags.filters.iter().filter(|flag| matches!(flag, FilterFlag::Filter(_) | FilterFlag::Condition(..))).count();
    // A condition may come from a variable or the file, and modules from the file.
    let most = given + 1 + file.filters.len();
    let variable = |name: &str| {
        variables.iter().find_map(|line| line.split_once('=').filter(|(known, _)| *known == name)).map(|(_, value)| value.to_owned())
    };
    match Config::resolve(flags, variable, file) {
        Ok(config) => {
            assert!(!config.program.is_empty());
            assert!((given..=most).contains(&config.filters.len()));
            let ports = config.ports.unwrap_or_default();
            for (index, map) in ports.iter().enumerate() {
                assert!(map.pod != 0 && map.local != 0);
                assert!(ports[..index].iter().all(|other| other.pod != map.pod && other.local != map.local));
            }
        }
        Err(error) => assert!(!error.to_string().is_empty() && !error.help().is_empty()),
    }
}
