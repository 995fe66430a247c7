//! The words of the label selector grammar.

/// A token; keys and values are both words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Word(&'a str),
    Symbol(&'a str),
    End,
}

impl<'a> Token<'a> {
    pub(super) fn text(self) -> &'a str {
        match self {
            Token::Word(text) | Token::Symbol(text) => text,
            Token::End => "",
        }
    }
}

/// Two-character symbols come first: the longest match wins.
const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", ",", "(", ")", "<", ">"];

pub(super) struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    pub(super) fn peek(&self) -> Token<'a> {
        Lexer { rest: self.rest }.next()
    }

    pub(super) fn next(&mut self) -> Token<'a> {
        self.rest = self.rest.trim_start();
        if self.rest.is_empty() {
            return Token::End;
        }
        if let Some(symbol) = SYMBOLS
            .iter()
            .find(|symbol| self.rest.starts_with(**symbol))
        {
            return Token::Symbol(self.take(symbol.len()));
        }
        let ends = |c: char| c.is_whitespace() || "=!,()<>".contains(c);
        let length = self.rest.find(ends).unwrap_or(self.rest.len());
        Token::Word(self.take(length))
    }

    fn take(&mut self, length: usize) -> &'a str {
        let (token, rest) = self.rest.split_at(length);
        self.rest = rest;
        token
    }
}
