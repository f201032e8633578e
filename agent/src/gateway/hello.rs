//! Reads what a TLS client says first, as far as a connection's way depends on it: the server's name and the protocols that it
//! offers (RFC 8446 §4.1.2, RFC 6066 §3, RFC 7301 §3.1). Pure and bounded; nothing is decrypted and nothing is checked that does
//! not matter here. Whatever is not certain is absent.

/// What is known of a client that speaks TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello<'a> {
    /// The name of the server that it wants.
    pub sni: Option<&'a [u8]>,
    /// The protocols that it offers, in its order.
    pub alpn: Vec<&'a [u8]>,
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// A piece of a TLS client's first message: more is to come.
    Partial,
    /// The whole message.
    Complete,
    /// No TLS, or nothing that we read.
    Other,
}

/// A message over this is not waited for. Browsers' are below 4 KiB, with post-quantum keys.
pub const MAX_HELLO: usize = 32 * 1024;
/// A record's header: type, version, length.
const RECORD: usize = 5;
/// Protocols beyond this many are not told.
const MAX_PROTOCOLS: usize = 16;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const PROTOCOLS: u16 = 16;

/// Looks at all bytes that have come so far; the answer is the same however they are cut.
pub fn start(bytes: &[u8]) -> Start {
    match message(bytes, &mut Vec::new()) {
        Some(true) => Start::Complete,
        Some(false) if bytes.len() < MAX_HELLO => Start::Partial,
        _ => Start::Other,
    }
}

/// Reads the message. A TLS client may cut it into several records: `joined` is where it is put together.
pub fn read<'a>(bytes: &[u8], joined: &'a mut Vec<u8>) -> Option<Hello<'a>> {
    joined.clear();
    if message(bytes, joined) != Some(true) {
        return None;
    }
    client_hello(joined)
}

/// Takes the first handshake message out of its records. `Some(false)`: a beginning of one; `None`: it cannot be one.
fn message(mut bytes: &[u8], joined: &mut Vec<u8>) -> Option<bool> {
    loop {
        let head = &bytes[..bytes.len().min(RECORD)];
        let plausible = head.first().is_none_or(|kind| *kind == HANDSHAKE)
            && head.get(1).is_none_or(|major| *major == 3)
            && head.get(2).is_none_or(|minor| *minor <= 4);
        if !plausible {
            return None;
        }
        let Some((_, [high, low])) = head.split_first_chunk::<3>().and_then(|(start, rest)| Some((start, rest.first_chunk::<2>()?))) else {
            return Some(false);
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        // 2^14, and no empty handshake records (RFC 8446 §5.1).
        if length == 0 || length > 1 << 14 || joined.len() + length > MAX_HELLO {
            return None;
        }
        let body = &bytes[RECORD..];
        joined.extend_from_slice(&body[..body.len().min(length)]);
        match joined.as_slice() {
            [kind, ..] if *kind != CLIENT_HELLO => return None,
            [_, high, middle, low, ..] => {
                let whole = 4 + (usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low));
                if whole > MAX_HELLO {
                    return None;
                }
                if joined.len() >= whole {
                    joined.truncate(whole);
                    return Some(true);
                }
            }
            _ => {}
        }
        match body.get(length..) {
            Some(rest) if !rest.is_empty() => bytes = rest,
            _ => return Some(false),
        }
    }
}

/// What is left to be read of a message.
struct Left<'a>(&'a [u8]);

impl<'a> Left<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<usize> {
        self.take(1).map(|bytes| usize::from(bytes[0]))
    }

    fn two(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A list that begins with its length in one byte, or in two.
    fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.byte()?;
        self.take(length)
    }

    fn long(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.two()?);
        self.take(length)
    }
}

fn client_hello(message: &[u8]) -> Option<Hello<'_>> {
    let mut left = Left(message);
    // Type and length, version, random.
    left.take(4 + 2 + 32)?;
    // Session, cipher suites, compressions.
    left.short()?;
    left.long()?;
    left.short()?;
    let mut hello = Hello::default();
    if left.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Left(left.long()?);
    while !extensions.0.is_empty() {
        let kind = extensions.two()?;
        let value = extensions.long()?;
        match kind {
            SERVER_NAME if hello.sni.is_none() => hello.sni = server_name(value),
            PROTOCOLS if hello.alpn.is_empty() => hello.alpn = protocols(value)?,
            // Twice the same: servers refuse it or take either.
            SERVER_NAME | PROTOCOLS => return None,
            _ => {}
        }
    }
    Some(hello)
}

/// The first name of type host, if it looks like one.
fn server_name(value: &[u8]) -> Option<&[u8]> {
    let mut names = Left(Left(value).long()?);
    let kind = names.byte()?;
    let name = names.long()?;
    let plain = (1..=255).contains(&name.len()) && name.iter().all(|byte| byte.is_ascii_graphic());
    (kind == 0 && plain).then_some(name)
}

fn protocols(value: &[u8]) -> Option<Vec<&[u8]>> {
    let mut list = Left(Left(value).long()?);
    let mut found = Vec::new();
    while !list.0.is_empty() {
        let name = list.short()?;
        if found.len() < MAX_PROTOCOLS && !name.is_empty() {
            found.push(name);
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_length(two: bool, bytes: &[u8]) -> Vec<u8> {
        let mut out = if two { (bytes.len() as u16).to_be_bytes().to_vec() } else { vec![bytes.len() as u8] };
        out.extend_from_slice(bytes);
        out
    }

    fn extension(kind: u16, value: &[u8]) -> Vec<u8> {
        [kind.to_be_bytes().to_vec(), with_length(true, value)].concat()
    }

    fn name(name: &[u8]) -> Vec<u8> {
        extension(SERVER_NAME, &with_length(true, &[vec![0], with_length(true, name)].concat()))
    }

    fn offers(names: &[&[u8]]) -> Vec<u8> {
        let list: Vec<u8> = names.iter().flat_map(|name| with_length(false, name)).collect();
        extension(PROTOCOLS, &with_length(true, &list))
    }

    fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
        let mut body =
            [&[3, 3][..], &[7; 32], &with_length(false, &[9; 32]), &with_length(true, &[0x13, 1]), &with_length(false, &[0])].concat();
        if !extensions.is_empty() {
            body.extend(with_length(true, &extensions.concat()));
        }
        let length = (body.len() as u32).to_be_bytes();
        [&[CLIENT_HELLO][..], &length[1..], &body].concat()
    }

    /// In records of at most so many bytes.
    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|part| [vec![HANDSHAKE, 3, 1], with_length(true, part)].concat()).collect()
    }

    #[test]
    fn name_and_protocols_are_found_in_every_cut() {
        let message = hello(&[extension(0x0a0a, b""), name(b"shop.test"), offers(&[b"h2", b"http/1.1"]), extension(43, &[2, 3, 4])]);
        let expected = Hello { sni: Some(b"shop.test"), alpn: vec![b"h2", b"http/1.1"] };
        for size in [1 << 14, 50, 7, 1] {
            let bytes = [records(&message, size), b"more".to_vec()].concat();
            let whole = bytes.len() - 4;
            for end in 0..bytes.len() {
                let so_far = if end < whole { Start::Partial } else { Start::Complete };
                assert_eq!(start(&bytes[..end]), so_far, "{end} of {whole} in records of {size}");
            }
            assert_eq!(read(&bytes, &mut Vec::new()), Some(expected.clone()));
            assert_eq!(read(&bytes[..whole - 1], &mut Vec::new()), None);
        }
    }

    #[test]
    fn what_is_not_there_is_absent() {
        for extensions in [vec![], vec![extension(43, &[2, 3, 4])]] {
            assert_eq!(read(&records(&hello(&extensions), 99), &mut Vec::new()), Some(Hello::default()));
        }
        let odd = [name(b""), name(b"a b"), name(&[b'a'; 256])];
        for one in odd {
            assert_eq!(read(&records(&hello(&[one]), 999), &mut Vec::new()), Some(Hello::default()));
        }
        // Said twice, or cut short within: nothing is believed.
        for extensions in
            [vec![name(b"a"), name(b"b")], vec![offers(&[b"h2"]), offers(&[b"h3"])], vec![extension(PROTOCOLS, &[0, 3, 2, b'h'])]]
        {
            assert_eq!(read(&records(&hello(&extensions), 999), &mut Vec::new()), None);
        }
    }

    #[test]
    fn other_bytes_are_told_at_once() {
        for other in
            [&b"SSH-2.0"[..], &[22, 2], &[22, 3, 9], &[22, 3, 1, 0, 0], &[22, 3, 1, 0x40, 1], &[22, 3, 1, 0, 9, 2], &[21, 3, 3, 0, 2]]
        {
            assert_eq!(start(other), Start::Other, "{other:?}");
        }
        // A length that nobody has to wait for.
        assert_eq!(start(&[22, 3, 1, 0, 9, 1, 1, 0, 0]), Start::Other);
    }
}
