//! Looks for the end of a head that comes in pieces, each byte once.

/// Whether a head's lines are all there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    Partial,
    Complete,
    /// A line ends in LF without CR: this is no head that everybody reads alike.
    BareLf,
}

/// Goes on at `scanned`, which is left at the end of the last complete line, or at the end of `buf` if nothing is complete.
pub fn until_empty(buf: &[u8], scanned: &mut usize) -> Lines {
    let from = (*scanned).min(buf.len());
    for found in memchr::memchr_iter(b'\n', &buf[from..]) {
        let at = from + found;
        if at == 0 || buf[at - 1] != b'\r' {
            *scanned = at;
            return Lines::BareLf;
        }
        if at == 1 || buf[at - 2] == b'\n' {
            *scanned = at;
            return Lines::Complete;
        }
    }
    *scanned = buf.len();
    Lines::Partial
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_at_the_same_byte_however_it_comes() {
        for (head, result) in [
            ("GET / HTTP/1.1\r\na: b\r\n\r\n", Lines::Complete),
            ("\r\n", Lines::Complete),
            ("GET / HTTP/1.1\na: b\r\n\r\n", Lines::BareLf),
            ("GET / HTTP/1.1\r\na: b\r\n\n", Lines::BareLf),
            ("GET / HTTP/1.1\r\na: b\r\n", Lines::Partial),
        ] {
            let head = head.as_bytes();
            let mut scanned = 0;
            let stepwise = (1..=head.len()).map(|end| until_empty(&head[..end], &mut scanned)).find(|lines| *lines != Lines::Partial);
            assert_eq!(stepwise.unwrap_or(Lines::Partial), result);
            assert_eq!(until_empty(head, &mut 0), result);
        }
    }
}
