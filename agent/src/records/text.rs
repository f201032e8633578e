//! Text of a bounded length that lies where it is used: a ring of them never allocates.

use mirrord_protocol::records::MASK;

/// At most `N` bytes, N ≤ 255. What is cut ends in [`MASK`].
#[derive(Clone, Copy, Debug)]
pub struct Text<const N: usize> {
    len: u8,
    bytes: [u8; N],
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self { len: 0, bytes: [0; N] }
    }
}

impl<const N: usize> Text<N> {
    pub fn set(&mut self, text: &[u8]) {
        self.len = 0;
        self.push(text);
    }

    /// Adds as much as fits.
    pub fn push(&mut self, text: &[u8]) {
        let start = usize::from(self.len);
        let fits = text.len().min(N - start);
        self.bytes[start..start + fits].copy_from_slice(&text[..fits]);
        self.len += fits as u8;
        if fits < text.len() {
            self.cut();
        }
    }

    #[cold]
    fn cut(&mut self) {
        let whole = N - MASK.len();
        // Not within a character, should it be UTF-8.
        let end = (0..=whole).rev().find(|&end| self.bytes[end] & 0xc0 != 0x80).unwrap_or(whole);
        self.bytes[end..end + MASK.len()].copy_from_slice(MASK.as_bytes());
        self.len = (end + MASK.len()) as u8;
    }

    pub fn is_full(&self) -> bool {
        usize::from(self.len) + MASK.len() > N
    }

    pub fn to_text(self) -> String {
        String::from_utf8_lossy(&self.bytes[..usize::from(self.len)]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(parts: &[&str]) -> String {
        let mut text = Text::<8>::default();
        parts.iter().for_each(|part| text.push(part.as_bytes()));
        text.to_text()
    }

    #[test]
    fn what_does_not_fit_is_cut_and_says_so() {
        assert_eq!(text(&["/ab", "cde"]), "/abcde");
        assert_eq!(text(&["/abcdefg"]), "/abcdefg");
        assert_eq!(text(&["/abc", "defgh"]), "/abcd…");
        assert_eq!(text(&["/abéé", "é"]), "/abé…");
        let mut again = Text::<8>::default();
        again.set(b"/a");
        again.set(b"/b");
        assert_eq!(again.to_text(), "/b");
    }
}
