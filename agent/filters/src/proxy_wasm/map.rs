//! Header maps as a guest sees them: a copy of a head with lower-case names and the pseudo-headers, which the guest edits,
//! and the edits that it made, already checked, for whoever holds the real head.
//!
//! All bytes of a head lie in one buffer that is used again for the next one. What a guest writes is added at its end, so
//! nothing moves; the sum of what it writes is bounded.

use std::ops::Range;

use crate::abi::{self, limit};
use crate::error::HostFault;
use crate::{Edit, FaultKind, Field};

/// Fields of one map, its pseudo-headers included. More than this are not shown.
const MAX_FIELDS: usize = 16 << 10;
/// Comparisons of [`Map::set`], which no deadline interrupts.
const MAX_COMPARISONS: usize = 1 << 20;
/// Bytes that an unused map keeps.
const MAX_KEPT: usize = 64 << 10;

#[derive(Default)]
pub(crate) struct Map {
    bytes: Vec<u8>,
    fields: Vec<Span>,
    pub(crate) edits: Vec<Edit>,
    /// The guest took `content-length` away, as stock filters do before they change a body.
    pub(crate) unframed: bool,
    /// What `:path` was set to.
    pub(crate) path: Option<Vec<u8>>,
    written: usize,
    writes: usize,
}

#[derive(Clone, Copy)]
struct Span {
    name: usize,
    value: usize,
    end: usize,
}

/// What becomes of a name that a guest edits.
enum Name {
    Field,
    Path,
    /// `:authority` is the header `Host` of the real head.
    Authority,
    /// It frames the message or belongs to the relay, which frames what it sends: said to be done, and not done.
    Fixed,
}

impl Map {
    pub(crate) fn clear(&mut self) {
        // One huge head must not be remembered for good.
        if self.bytes.capacity() > MAX_KEPT {
            (self.bytes, self.fields) = (Vec::new(), Vec::new());
        }
        self.bytes.clear();
        self.fields.clear();
        self.edits.clear();
        self.path = None;
        self.unframed = false;
        (self.written, self.writes) = (0, 0);
    }

    pub(crate) fn reserve(&mut self, fields: usize, bytes: usize) {
        self.fields.reserve(fields.min(MAX_FIELDS));
        self.bytes.reserve(bytes);
    }

    /// A field of the real head.
    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) {
        if self.fields.len() >= MAX_FIELDS {
            return;
        }
        // As it came: most guests look up a few names, and few read all of them.
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name);
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.fields.push(Span { name: start, value: middle, end: self.bytes.len() });
    }

    pub(crate) fn push_all(&mut self, fields: &[Field<'_>]) {
        self.reserve(fields.len(), 0);
        for field in fields {
            self.push(field.name, field.value);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.fields.len()
    }

    /// The values of that name.
    pub(crate) fn values<'a, 'n>(&'a self, name: &'n [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.fields
            .iter()
            .filter(move |span| self.bytes[span.name..span.value].eq_ignore_ascii_case(name))
            .map(|span| &self.bytes[span.value..span.end])
    }

    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        self.fields.iter().map(|span| (&self.bytes[span.name..span.value], &self.bytes[span.value..span.end]))
    }

    /// Length of the names and values.
    pub(crate) fn size(&self) -> usize {
        self.fields.iter().map(|span| span.end - span.name).sum()
    }

    pub(crate) fn replace(&mut self, name: &[u8], value: &[u8]) -> wasmtime::Result<()> {
        let Some((kind, name)) = self.check(name, value)? else { return Ok(()) };
        self.fields.retain(|span| !self.bytes[span.name..span.value].eq_ignore_ascii_case(name));
        self.push(name, value);
        match kind {
            Name::Path => self.path = Some(value.to_vec()),
            Name::Authority => self.edits.push(Edit::Set { name: b"host".to_vec(), value: value.to_vec() }),
            _ => self.edits.push(Edit::Set { name: name.to_vec(), value: value.to_vec() }),
        }
        Ok(())
    }

    pub(crate) fn add(&mut self, name: &[u8], value: &[u8]) -> wasmtime::Result<()> {
        let Some((kind, name)) = self.check(name, value)? else { return Ok(()) };
        if !matches!(kind, Name::Field) {
            return self.replace(name, value);
        }
        self.push(name, value);
        self.edits.push(Edit::Append { name: name.to_vec(), value: value.to_vec() });
        Ok(())
    }

    pub(crate) fn remove(&mut self, name: &[u8]) -> wasmtime::Result<()> {
        if name.eq_ignore_ascii_case(b"content-length") {
            self.unframed = true;
            self.fields.retain(|span| !self.bytes[span.name..span.value].eq_ignore_ascii_case(name));
            return Ok(());
        }
        let Some((kind, name)) = self.check(name, b"")? else { return Ok(()) };
        // A request without a target or authority is none.
        if !matches!(kind, Name::Field) {
            return Ok(());
        }
        let before = self.fields.len();
        self.fields.retain(|span| !self.bytes[span.name..span.value].eq_ignore_ascii_case(name));
        if self.fields.len() < before {
            self.edits.push(Edit::Remove { name: name.to_vec() });
        }
        Ok(())
    }

    /// Makes the map what the guest says, by the edits that lead there from what it is.
    pub(crate) fn set(&mut self, pairs: &[(&[u8], &[u8])]) -> wasmtime::Result<()> {
        if pairs.len().max(1).saturating_mul(self.fields.len() + pairs.len()) > MAX_COMPARISONS {
            return Err(HostFault::error(FaultKind::BadEdit, "a header map with too many headers"));
        }
        let (gone, mut changed): (Vec<Vec<u8>>, Vec<usize>) = (
            self.pairs()
                .map(|(name, _)| name)
                .filter(|name| !pairs.iter().any(|(new, _)| new.eq_ignore_ascii_case(name)))
                .map(<[u8]>::to_ascii_lowercase)
                .collect(),
            Vec::new(),
        );
        for (index, (name, _)) in pairs.iter().enumerate() {
            let new = pairs.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| *value);
            if !self.values(name).eq(new) {
                changed.push(index);
            }
        }
        for name in gone {
            self.remove(&name)?;
        }
        for index in changed {
            let (name, value) = pairs[index];
            match pairs[..index].iter().any(|(before, _)| before.eq_ignore_ascii_case(name)) {
                false => self.replace(name, value)?,
                true => self.add(name, value)?,
            }
        }
        Ok(())
    }

    /// What the guest's edit is about, and its name cleaned; nothing if it is one that has no effect.
    fn check<'a>(&mut self, name: &'a [u8], value: &[u8]) -> wasmtime::Result<Option<(Name, &'a [u8])>> {
        let kind = match name {
            b":path" => Name::Path,
            b":authority" => Name::Authority,
            b"host" | b"Host" => Name::Field,
            [b':', ..] => Name::Fixed,
            _ if abi::is_untouchable(name) => Name::Fixed,
            _ => Name::Field,
        };
        if matches!(kind, Name::Fixed) {
            return Ok(None);
        }
        self.written = self.written.saturating_add(name.len()).saturating_add(value.len());
        self.writes = self.writes.saturating_add(1);
        let problem = match kind {
            _ if self.writes > limit::EDITS || self.written > limit::EDIT_BYTES => Some("too many edits, or too long"),
            Name::Path => path_problem(value),
            Name::Authority => abi::edit_problem(b"host", value),
            _ => abi::edit_problem(name, value),
        };
        match problem {
            None => Ok(Some((kind, name))),
            Some(problem) => {
                let name = crate::log::clean(name, 64);
                Err(HostFault::error(FaultKind::BadEdit, format!("a header edit: {problem} (name {name:?})")))
            }
        }
    }
}

fn path_problem(path: &[u8]) -> Option<&'static str> {
    match path {
        [b'/', ..] | [b'*'] if path.iter().all(|&byte| byte > b' ' && byte != 0x7f) => None,
        _ => Some("a path begins with / and holds no white space or control characters"),
    }
}

/// Serializes pairs: count, then the lengths, then names, in lower case, and values, each with a NUL.
pub(crate) fn serialize<'a>(pairs: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&[0; 4]);
    let mut count = 0_u32;
    for (name, value) in pairs.clone() {
        out.extend_from_slice(&length(name));
        out.extend_from_slice(&length(value));
        count += 1;
    }
    out[..4].copy_from_slice(&count.to_le_bytes());
    for (name, value) in pairs {
        let start = out.len();
        out.extend_from_slice(name);
        out[start..].make_ascii_lowercase();
        out.push(0);
        out.extend_from_slice(value);
        out.push(0);
    }
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()
}

/// Reads serialized pairs; nothing if they are not what they say.
pub(crate) fn deserialize(bytes: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    if bytes.is_empty() || bytes == [0] {
        return Some(Vec::new());
    }
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
    let count = word(0)?;
    let mut at = count.checked_mul(8)?.checked_add(4).filter(|&start| start <= bytes.len())?;
    let take = |range: &mut usize, len: usize| -> Option<Range<usize>> {
        let end = range.checked_add(len)?;
        (bytes.get(end) == Some(&0)).then(|| {
            let taken = *range..end;
            *range = end + 1;
            taken
        })
    };
    let mut pairs = Vec::with_capacity(count);
    for index in 0..count {
        let name = take(&mut at, word(4 + index * 8)?)?;
        let value = take(&mut at, word(8 + index * 8)?)?;
        pairs.push((&bytes[name], &bytes[value]));
    }
    Some(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> Map {
        let mut map = Map::default();
        for (name, value) in fields {
            map.push(name.as_bytes(), value.as_bytes());
        }
        map
    }

    #[test]
    fn pairs_come_back_as_they_went() {
        let fields: [(&[u8], &[u8]); 3] = [(b"a", b"1"), (b"bb", b""), (b"a", b"\xff\0")];
        let mut bytes = Vec::new();
        serialize(fields.iter().copied(), &mut bytes);
        assert_eq!(deserialize(&bytes).unwrap(), fields);
        // Every prefix and every changed length is refused or read without harm.
        for end in 1..bytes.len() {
            assert_eq!(deserialize(&bytes[..end]), if bytes[..end] == [0] { Some(vec![]) } else { None }, "{end}");
        }
        for at in 0..28 {
            let mut bad = bytes.clone();
            bad[at] = 0xff;
            assert!(deserialize(&bad).is_none(), "{at}");
        }
    }

    #[test]
    fn what_a_guest_writes_it_reads_again() {
        let mut map = map(&[(":path", "/"), ("X-A", "1"), ("x-a", "2"), ("content-length", "3")]);
        assert_eq!(map.values(b"X-a").collect::<Vec<_>>(), [b"1", b"2"]);
        map.replace(b"x-a", b"3").unwrap();
        map.add(b"x-a", b"4").unwrap();
        map.replace(b":path", b"/b").unwrap();
        map.remove(b"content-length").unwrap();
        map.remove(b"absent").unwrap();
        assert_eq!(map.values(b"x-a").collect::<Vec<_>>(), [b"3", b"4"]);
        assert_eq!(map.values(b":path").collect::<Vec<_>>(), [b"/b"]);
        assert!(map.unframed && map.values(b"content-length").count() == 0);
        let (name, value) = (b"x-a".to_vec(), b"3".to_vec());
        assert_eq!(map.edits, [Edit::Set { name: name.clone(), value }, Edit::Append { name, value: b"4".to_vec() }]);
        assert_eq!(map.path.as_deref(), Some(&b"/b"[..]));
    }

    #[test]
    fn a_whole_map_becomes_the_edits_that_lead_there() {
        let mut map = map(&[(":path", "/"), ("a", "1"), ("b", "2"), ("c", "3"), ("c", "4"), ("content-length", "7")]);
        map.set(&[(b":path", b"/"), (b"a", b"1"), (b"c", b"3"), (b"c", b"5"), (b"d", b"6")]).unwrap();
        let set = |name: &str, value: &str| Edit::Set { name: name.into(), value: value.into() };
        let append = Edit::Append { name: b"c".to_vec(), value: b"5".to_vec() };
        assert_eq!(map.edits, [Edit::Remove { name: b"b".to_vec() }, set("c", "3"), append, set("d", "6")]);
        assert_eq!(map.path, None);
    }

    #[test]
    fn edits_that_would_break_the_message_are_refused_and_framing_is_left_alone() {
        let mut map = map(&[]);
        for (name, value) in
            [("x a", "b"), ("", "b"), ("x-a", "b\r\nc: d"), (":path", "b"), (":path", "/ HTTP/1.1"), (":authority", "a\nb")]
        {
            assert!(map.replace(name.as_bytes(), value.as_bytes()).is_err(), "{name:?} {value:?}");
        }
        for name in ["Transfer-Encoding", "connection", ":method", ":status", ":x"] {
            map.replace(name.as_bytes(), b"x").unwrap();
            map.add(name.as_bytes(), b"x").unwrap();
            map.remove(name.as_bytes()).unwrap();
        }
        assert_eq!((map.edits.len(), map.len()), (0, 0));
        assert!((0..limit::EDITS + 1).any(|_| map.add(b"x", b"").is_err()));
    }
}
