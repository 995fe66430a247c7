//! Inputs made of other inputs, always the same ones for a seed.

/// Bytes that parsers look at twice.
const WORDS: [&[u8]; 22] = [
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0\0",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"null",
    b"-1",
    b"1e999",
    b"&a ",
    b"*a",
    b"- ",
    b"\n",
    b"\xc3\x28",
    b"$patch",
    b"/-",
];

/// Makes mutations of a corpus.
#[derive(Debug)]
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// With the same seed come the same mutations.
    #[must_use]
    pub fn new(seed: u64) -> Mutator {
        Mutator { state: seed | 1 }
    }

    /// One to eight changes of one input of the corpus, or of two put together.
    ///
    /// # Panics
    /// When the corpus is empty.
    pub fn next(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(8) {
            self.change(&mut input, corpus);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let end = at + self.below((input.len() - at).min(64) + 1);
        match self.below(7) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.below(256) as u8,
            2 => drop(input.drain(at..end)),
            3 => input.truncate(at),
            4 => drop(input.splice(at..at, WORDS[self.below(WORDS.len())].iter().copied())),
            5 => {
                let again = input[at..end].repeat(1 + self.below(8));
                drop(input.splice(at..at, again));
            }
            _ => {
                let other = &corpus[self.below(corpus.len())];
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }

    /// xorshift64* (Vigna 2016), reduced; `end` is at least 1.
    fn below(&mut self, end: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let number = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        number as usize % end
    }
}
