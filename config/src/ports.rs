//! The grammar of `-p PORT[:LOCAL]`: which of the pod's ports come to which of the program's.

use thiserror::Error;

/// Traffic of the pod's port `pod` goes to the program's port `local`. Neither is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMap {
    /// Port in the target.
    pub pod: u16,
    /// Port that the program listens on, as it believes.
    pub local: u16,
}

/// Why a port mapping cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PortError {
    /// Not `PORT` or `PORT:LOCAL`.
    #[error("`{0}` is not PORT or PORT:LOCAL")]
    Malformed(String),
    /// A zero on either side.
    #[error("`{0}`: port 0 carries no traffic")]
    Zero(String),
    /// One of the pod's ports was given twice.
    #[error("the target's port {0} is given twice")]
    PodTwice(u16),
    /// Two of the pod's ports for one of the program's.
    #[error("the program's port {0} is given twice")]
    LocalTwice(u16),
}

impl PortError {
    /// The next step.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Malformed(_) => {
                "write a number from 1 to 65535, or two with a colon: -p 80, or -p 80:8080 if the program listens on 8080"
            }
            Self::Zero(_) => "name the port that the target serves; without -p it is the one that the program listens on",
            Self::PodTwice(_) | Self::LocalTwice(_) => "leave out one of the two -p: a port goes to one place and comes from one",
        }
    }
}

/// Reads the `-p` of a command line; no two may share a port on either side.
pub fn parse_all(texts: &[String]) -> Result<Vec<PortMap>, PortError> {
    let mut maps: Vec<PortMap> = Vec::with_capacity(texts.len());
    for text in texts {
        let map = parse(text)?;
        if maps.iter().any(|known| known.pod == map.pod) {
            return Err(PortError::PodTwice(map.pod));
        }
        if maps.iter().any(|known| known.local == map.local) {
            return Err(PortError::LocalTwice(map.local));
        }
        maps.push(map);
    }
    Ok(maps)
}

fn parse(text: &str) -> Result<PortMap, PortError> {
    let number = |part: &str| {
        // `parse` alone would take `+80`.
        let digits = part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<u16>().ok().filter(|_| digits).ok_or_else(|| PortError::Malformed(text.into()))
    };
    let (pod, local) = match text.split_once(':') {
        Some((pod, local)) => (number(pod)?, number(local)?),
        None => (number(text)?, number(text)?),
    };
    if pod == 0 || local == 0 {
        return Err(PortError::Zero(text.into()));
    }
    Ok(PortMap { pod, local })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> Result<Vec<PortMap>, PortError> {
        parse_all(&texts.iter().map(|text| text.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn one_number_stands_for_both_sides() {
        let maps = read(&["80", "443:8443", "1:65535"]).unwrap();
        let pairs: Vec<_> = maps.iter().map(|map| (map.pod, map.local)).collect();
        assert_eq!(pairs, [(80, 80), (443, 8443), (1, 65535)]);
    }

    #[test]
    fn anything_else_is_quoted_back() {
        for text in ["", ":", "80:", ":80", "80:81:82", "http", "-1", "+80", "65536", "80 ", "0x50"] {
            assert_eq!(read(&[text]), Err(PortError::Malformed(text.into())));
        }
        for text in ["0", "0:80", "80:0"] {
            assert_eq!(read(&[text]), Err(PortError::Zero(text.into())));
        }
    }

    #[test]
    fn a_port_may_stand_once_on_each_side() {
        assert_eq!(read(&["80", "80:81"]), Err(PortError::PodTwice(80)));
        assert_eq!(read(&["80", "81:80"]), Err(PortError::LocalTwice(80)));
        assert!(read(&["80:81", "81:80"]).is_ok());
    }
}
